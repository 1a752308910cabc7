"""Every wrong ticket is refused before an engine sees it: it would die of it, or lie."""

import math
from dataclasses import replace

import pytest

from services.decode import phase
from services.domain.errors import KvLost, TicketInvalid
from services.domain.ids import EngineEpoch, TicketId
from services.domain.integrity import CHECKS_MAX, BlockCheck
from services.domain.link import Accepted, StartDecode
from services.domain.stream import FinishReason
from tests.decode.desk import Desk, Inbox, ends, play, request, settle, start


def refused(desk: Desk, inbox: Inbox, message: StartDecode) -> str:
    """Start a request whose ticket must be refused; says why it was."""
    name = message.request.request_id
    desk.phase.start(inbox, message)
    (delta,) = inbox.deltas(name)
    assert isinstance(delta.error, TicketInvalid), delta
    assert not any(isinstance(m, Accepted) and m.request_id == name for m in inbox.messages)
    assert name not in desk.decode.job_ids(), "the engine has seen it"
    return str(delta.error)


def check(index: int) -> BlockCheck:
    """A fingerprint of a block."""
    return BlockCheck(block_index=index, digests=(1,))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"block_count": 2}, "names 2 blocks, the prompt needs 3"),
        ({"block_count": 4}, "names 4 blocks, the prompt needs 3"),
        ({"block_count": 0}, "names 0 blocks"),
        ({"prompt_tokens": 39}, "for 39 tokens, the prompt has 40"),
        ({"prompt_tokens": 64, "block_count": 4}, "for 64 tokens"),
        ({"digest": "0" * 32}, "another prompt"),
        ({"lease_s": 0.0}, "lease ended"),
        ({"lease_s": -1.0}, "lease ended"),
        ({"lease_s": math.nan}, "lease ended"),
        ({"compatibility": "vllm/0.31/x"}, "layouts differ"),
        ({"block_size_tokens": 32, "block_count": 2}, "block sizes differ"),
        ({"checks": (check(3),)}, "fingerprints the blocks"),
        ({"checks": (check(1), check(0))}, "fingerprints the blocks"),
        ({"checks": (check(1), check(1))}, "fingerprints the blocks"),
        ({"checks": tuple(check(i) for i in range(CHECKS_MAX + 1))}, "fingerprints the blocks"),
    ],
)
def test_a_wrong_ticket_is_refused_with_its_reason(changes: dict[str, object], reason: str) -> None:
    """Too few or many blocks, another layout, size or age: the reason is told, and the right one works."""

    async def main() -> None:
        desk, inbox = Desk(), Inbox()
        await desk.open()
        right = await desk.ticket(request("r"))
        wrong = replace(right, **changes)  # type: ignore[arg-type]  # one field of the ticket each
        assert reason in refused(desk, inbox, start(request("wrong"), wrong))
        desk.phase.start(inbox, start(request("right"), right))
        await settle()
        assert ends(inbox.deltas("right")) == [FinishReason.LENGTH], "a refusal uses nothing up"
        await desk.close()

    play(main())


def test_a_ticket_of_another_prompt_is_refused() -> None:
    """The prompt decides, not its length; nor does a ticket serve a prompt within another scope."""

    async def main() -> None:
        desk, inbox = Desk(), Inbox()
        await desk.open()
        ticket = await desk.ticket(request("r"))
        longer, other = request("longer", tokens=41), request("other")
        other = replace(other, prompt_token_ids=(7, *other.prompt_token_ids[1:]))
        salted = replace(request("salted"), scope=replace(other.scope, salt="tenant"))
        for asked in (longer, other, salted):
            assert "another prompt" in refused(desk, inbox, start(asked, ticket))
        await desk.close()

    play(main())


def test_a_ticket_continues_behind_at_most_its_first_token() -> None:
    """Its blocks hold the prompt's KV: with two emitted tokens the engine would read KV that is nowhere."""

    async def main() -> None:
        desk, inbox = Desk(), Inbox()
        await desk.open()
        ticket = await desk.ticket(request("r"))
        message = replace(start(request("late"), ticket), emitted_token_ids=(300, 301))
        assert "2 emitted tokens" in refused(desk, inbox, message)
        await desk.close()

    play(main())


def test_a_ticket_is_used_once() -> None:
    """The second use is refused, while the first runs and after it ended, and the engine lives."""

    async def main() -> None:
        desk, inbox = Desk(), Inbox()
        await desk.open()
        ticket = await desk.ticket(request("r"))
        desk.phase.start(inbox, start(request("first"), ticket))
        assert "used before" in refused(desk, inbox, start(request("second"), ticket))
        await settle()
        assert ends(inbox.deltas("first")) == [FinishReason.LENGTH]
        assert "used before" in refused(desk, inbox, start(request("third"), ticket))
        await desk.decode.check_health()
        await desk.close()

    play(main())


def test_used_tickets_are_remembered_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last `TICKETS_REMEMBERED_MAX` are known again, in whatever order they come; no more are kept."""
    monkeypatch.setattr(phase, "TICKETS_REMEMBERED_MAX", 4)

    async def main() -> None:
        desk, inbox = Desk(), Inbox()
        await desk.open()
        right = await desk.ticket(request("r"))
        tickets = [replace(right, ticket_id=TicketId(f"t{i}")) for i in range(9)]
        for i, ticket in enumerate(tickets):
            desk.phase.start(inbox, start(request(f"use{i}"), ticket))
            for j in range(max(0, i - 3), i + 1):
                assert "used before" in refused(desk, inbox, start(request(f"again{i}.{j}"), tickets[j]))
        assert len(desk.phase._used) == 4
        await settle()
        await desk.close()

    play(main())


def test_blocks_of_an_engine_that_is_no_more_are_never_read() -> None:
    """Decode cannot know which engines live: a ticket of another epoch ends in KvLost, nothing is read."""

    async def main() -> None:
        desk, inbox = Desk(), Inbox()
        await desk.open()
        ticket = replace(await desk.ticket(request("r")), epoch=EngineEpoch("an earlier life"))
        desk.phase.start(inbox, start(request("late"), ticket))
        await settle()
        (delta,) = inbox.deltas("late")
        assert isinstance(delta.error, KvLost)
        assert delta.token_ids == ()
        await desk.decode.check_health()
        await desk.close()

    play(main())
