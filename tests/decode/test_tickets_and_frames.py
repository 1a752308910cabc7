"""The decode phase: tickets are checked before the engine, frames gather a step, ends are single."""

import asyncio
from dataclasses import replace

from services.decode.phase import DecodePhase
from services.domain.blocks import CacheScope
from services.domain.errors import DeadlineExceeded, NotReady, TicketInvalid
from services.domain.handoff import Ticket
from services.domain.ids import GatewayId, RequestId, WorkerId
from services.domain.link import Accepted, StartDecode, ToGateway
from services.domain.request import InferenceRequest, Sampling
from services.domain.stream import Delta, FinishReason, StepFrame
from services.engine.port import EngineStep, Prefilled, PrefillJob
from services.engine.simulated.engine import SimulatedEngine
from services.engine.simulated.fabric import Fabric
from services.engine.simulated.settings import SimulatedSettings
from services.runtime.clock import run_virtual
from services.runtime.metrics import Meters


class Inbox:
    """A gateway's end of a link that keeps what it is sent."""

    def __init__(self, name: str = "gateway") -> None:
        self.gateway_id = GatewayId(name)
        self.messages: list[ToGateway] = []

    def send(self, message: ToGateway) -> bool:
        """Keep a message."""
        self.messages.append(message)
        return True

    def frames(self) -> list[StepFrame]:
        """Step frames so far."""
        return [m for m in self.messages if isinstance(m, StepFrame)]

    def deltas(self, name: str) -> list[Delta]:
        """Deltas of one request so far."""
        return [d for f in self.frames() for d in f.deltas if d.request_id == name]


class Desk:
    """Two simulated engines that hand over to each other, a decode phase on the second."""

    def __init__(self) -> None:
        self.fabric = Fabric("desk")
        self.prefilled: list[Prefilled] = []
        self.changed = asyncio.Event()

    async def open(self) -> None:
        """Start both engines."""
        self.prefill = SimulatedEngine(SimulatedSettings(), worker_id=WorkerId("p"), fabric=self.fabric)
        self.decode = SimulatedEngine(SimulatedSettings(), worker_id=WorkerId("d"), fabric=self.fabric)
        await self.prefill.start(self._keep, lambda _: None)
        info = await self.decode.start(self._pass_on, lambda _: None)
        self.phase = DecodePhase(self.decode, info, meters=Meters())

    async def close(self) -> None:
        """Stop both engines."""
        await self.prefill.stop()
        await self.decode.stop()

    def _keep(self, step: EngineStep) -> None:
        self.prefilled.extend(step.prefilled)
        self.changed.set()

    def _pass_on(self, step: EngineStep) -> None:
        self.phase.step(step.deltas)

    async def ticket(self, asked: InferenceRequest) -> Ticket:
        """Prefill a request on the first engine."""
        self.prefill.submit(PrefillJob(request=replace(asked, request_id=RequestId("p"))))
        while not self.prefilled:
            self.changed.clear()
            await self.changed.wait()
        ticket = self.prefilled.pop().ticket
        assert ticket is not None
        return ticket


def request(name: str, tokens: int = 40, max_tokens: int = 8) -> InferenceRequest:
    """Make a greedy request."""
    return InferenceRequest(
        request_id=RequestId(name),
        scope=CacheScope(model="m"),
        prompt_token_ids=tuple(range(300, 300 + tokens)),
        sampling=Sampling(max_tokens=max_tokens, temperature=0.0, ignore_eos=True),
    )


def start(
    asked: InferenceRequest, ticket: Ticket | None = None, deadline_s: float | None = None
) -> StartDecode:
    """Make the message that begins a request."""
    return StartDecode(request=asked, ticket=ticket, emitted_token_ids=(), deadline_s=deadline_s)


async def settle() -> None:
    """Let everything that is going on come to its end, on the virtual clock."""
    await asyncio.sleep(5.0)


def ends(deltas: list[Delta]) -> list[FinishReason]:
    """Ends among deltas."""
    return [d.finish for d in deltas if d.finish is not None]


def test_a_ticket_is_used_once() -> None:
    """The second use is refused before the engine sees it, and the engine lives."""

    async def main() -> None:
        desk, inbox = Desk(), Inbox()
        await desk.open()
        ticket = await desk.ticket(request("r"))
        desk.phase.start(inbox, start(request("first"), ticket))
        desk.phase.start(inbox, start(request("second"), ticket))
        await settle()
        assert ends(inbox.deltas("first")) == [FinishReason.LENGTH]
        assert isinstance(inbox.deltas("second")[0].error, TicketInvalid)
        await desk.decode.check_health()
        await desk.close()

    run_virtual(main())


def test_a_ticket_of_another_prompt_or_layout_or_age_is_refused() -> None:
    """Each check of a ticket stands between a wrong one and the engine, which would die or lie."""

    async def main() -> None:
        desk, inbox = Desk(), Inbox()
        await desk.open()
        ticket = await desk.ticket(request("r"))
        wrong = {
            "prompt": start(request("prompt", tokens=41), ticket),
            "layout": start(request("layout"), replace(ticket, compatibility="another engine")),
            "age": start(request("age"), replace(ticket, lease_s=0.0)),
            "count": start(request("count"), replace(ticket, block_count=ticket.block_count + 1)),
            "size": start(request("size"), replace(ticket, block_size_tokens=32)),
        }
        for message in wrong.values():
            desk.phase.start(inbox, message)
        assert all(isinstance(inbox.deltas(name)[0].error, TicketInvalid) for name in wrong)
        assert not [m for m in inbox.messages if isinstance(m, Accepted)]
        desk.phase.start(inbox, start(request("right"), ticket))
        await settle()
        assert ends(inbox.deltas("right")) == [FinishReason.LENGTH]
        await desk.close()

    run_virtual(main())


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

    run_virtual(main())


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

    run_virtual(main())


def test_after_a_cancel_nothing_more_is_said() -> None:
    """A cancelled request frees its blocks and is not spoken of again; another gateway cannot cancel it."""

    async def main() -> None:
        desk, inbox, stranger = Desk(), Inbox(), Inbox("stranger")
        await desk.open()
        desk.phase.start(inbox, start(request("r", max_tokens=5000)))
        await asyncio.sleep(0.1)
        desk.phase.cancel(stranger, RequestId("r"))
        assert len(desk.phase) == 1
        desk.phase.cancel(inbox, RequestId("r"))
        said = len(inbox.messages)
        await settle()
        assert len(inbox.messages) == said
        assert len(desk.phase) == 0
        assert desk.decode.load().kv_used_blocks == 0
        await desk.close()

    run_virtual(main())


def test_a_gateway_that_is_gone_leaves_nothing() -> None:
    """When a link breaks, all sequences of that gateway stop, and those of others go on."""

    async def main() -> None:
        desk, gone, stays = Desk(), Inbox("gone"), Inbox("stays")
        await desk.open()
        for i in range(4):
            desk.phase.start(gone, start(request(f"g{i}", max_tokens=5000)))
        desk.phase.start(stays, start(request("s", max_tokens=30)))
        await asyncio.sleep(0.05)
        desk.phase.gateway_gone(gone)
        await settle()
        assert len(desk.phase) == 0
        assert ends(stays.deltas("s")) == [FinishReason.LENGTH]
        assert desk.decode.load().kv_used_blocks == 0
        await desk.close()

    run_virtual(main())


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

    run_virtual(main())
