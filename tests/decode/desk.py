"""A decode phase under test: a simulated engine that reads tickets of a second one; a gateway's inbox."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from services.decode.phase import DecodePhase
from services.domain.blocks import CacheScope
from services.domain.handoff import Ticket
from services.domain.ids import GatewayId, RequestId, WorkerId
from services.domain.link import StartDecode, ToGateway
from services.domain.request import InferenceRequest, Sampling
from services.domain.stream import Delta, FinishReason, StepFrame
from services.engine.port import EngineStep, Prefilled, PrefillJob
from services.engine.simulated.engine import SimulatedEngine
from services.engine.simulated.fabric import Fabric
from services.engine.simulated.settings import SimulatedSettings
from services.runtime.clock import LoopClock, run_virtual
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
        self.doubt_s = 0.0
        """How long this worker may have stood still."""
        self.phase = DecodePhase(
            self.decode, info, clock=LoopClock(), doubt_s=lambda: self.doubt_s, meters=Meters()
        )

    async def close(self) -> None:
        """Stop both engines."""
        await self.prefill.stop()
        await self.decode.stop()

    def _keep(self, step: EngineStep) -> None:
        self.prefilled.extend(step.prefilled)
        self.changed.set()

    def _pass_on(self, step: EngineStep) -> None:
        self.phase.step(step.deltas, stalled=step.span is not None and step.span.prefill_s > 0.0)

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


def play(story: Coroutine[Any, Any, None]) -> None:
    """Run a story on the virtual clock."""
    run_virtual(story)


async def settle(duration_s: float = 5.0) -> None:
    """Let time go by on the virtual clock; unless told otherwise, until everything has come to its end."""
    await asyncio.sleep(duration_s)


def ends(deltas: list[Delta]) -> list[FinishReason]:
    """Ends among deltas."""
    return [d.finish for d in deltas if d.finish is not None]
