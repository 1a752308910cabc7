"""The decode phase: frames gather a step, ends are single."""

from services.domain.errors import DeadlineExceeded, NotReady
from services.domain.ids import RequestId
from services.domain.stream import FinishReason
from tests.decode.desk import Desk, Inbox, ends, play, request, settle, start


def test_one_frame_per_step_and_gateway() -> None:
    """Ten requests of two gateways: each gateway gets at most one frame per step, and all its tokens."""

    async def main() -> None:
        desk = Desk()
        inboxes = (Inbox("a"), Inbox("b"))
        await desk.open()
        for i in range(10):
            desk.phase.start(inboxes[i % 2], start(request(f"r{i}", max_tokens=50)))
        await settle()
        for index, inbox in enumerate(inboxes):
            frames = inbox.frames()
            assert [f.step for f in frames] == list(range(1, len(frames) + 1))
            assert len(frames) <= 52
            own = {f"r{i}" for i in range(10) if i % 2 == index}
            assert {d.request_id for f in frames for d in f.deltas} == own
            assert all(sum(len(d.token_ids) for d in inbox.deltas(name)) == 50 for name in own)
        await desk.close()

    play(main())


def test_a_deadline_ends_in_its_own_error() -> None:
    """A sequence whose time is up ends once, as DeadlineExceeded, and frees its blocks."""

    async def main() -> None:
        desk, inbox = Desk(), Inbox()
        await desk.open()
        desk.phase.start(inbox, start(request("r", max_tokens=5000), deadline_s=0.2))
        await settle()
        last = inbox.deltas("r")[-1]
        assert ends(inbox.deltas("r")) == [FinishReason.ERROR]
        assert isinstance(last.error, DeadlineExceeded)
        assert desk.decode.load().kv_used_blocks == 0
        await desk.close()

    play(main())


def test_after_a_cancel_nothing_more_is_said() -> None:
    """A cancelled request frees its blocks and is not spoken of again; another gateway cannot cancel it."""

    async def main() -> None:
        desk, inbox, stranger = Desk(), Inbox(), Inbox("stranger")
        await desk.open()
        desk.phase.start(inbox, start(request("r", max_tokens=5000)))
        await settle(0.1)
        desk.phase.cancel(stranger, RequestId("r"))
        assert len(desk.phase) == 1
        desk.phase.cancel(inbox, RequestId("r"))
        said = len(inbox.messages)
        await settle()
        assert len(inbox.messages) == said
        assert len(desk.phase) == 0
        assert desk.decode.load().kv_used_blocks == 0
        await desk.close()

    play(main())


def test_a_gateway_that_is_gone_leaves_nothing() -> None:
    """When a link breaks, all sequences of that gateway stop, and those of others go on."""

    async def main() -> None:
        desk, gone, stays = Desk(), Inbox("gone"), Inbox("stays")
        await desk.open()
        for i in range(4):
            desk.phase.start(gone, start(request(f"g{i}", max_tokens=5000)))
        desk.phase.start(stays, start(request("s", max_tokens=30)))
        await settle(0.05)
        desk.phase.gateway_gone(gone)
        await settle()
        assert len(desk.phase) == 0
        assert ends(stays.deltas("s")) == [FinishReason.LENGTH]
        assert desk.decode.load().kv_used_blocks == 0
        await desk.close()

    play(main())


def test_a_draining_phase_finishes_and_begins_nothing() -> None:
    """What runs is finished; what comes is told to go elsewhere."""

    async def main() -> None:
        desk, inbox = Desk(), Inbox()
        await desk.open()
        desk.phase.start(inbox, start(request("running", max_tokens=30)))
        desk.phase.begin_drain()
        desk.phase.start(inbox, start(request("late")))
        await settle()
        assert ends(inbox.deltas("running")) == [FinishReason.LENGTH]
        assert isinstance(inbox.deltas("late")[0].error, NotReady)
        await desk.close()

    play(main())
