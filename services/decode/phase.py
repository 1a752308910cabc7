"""The decode phase: takes `StartDecode`, feeds the engine, sends step frames.

Comes in: messages of gateways, deltas of engine steps. Goes out: `Accepted` and `StepFrame`s.
Invariant: every accepted request ends in exactly one delta with `finish`, unless its gateway cancelled
it or is gone; a ticket is checked and used once before the engine sees it; at most one frame per
engine step and gateway.
Not here: prefill of queued tasks (`services.prefill`), the process around it (`services.worker`).
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from services.domain.errors import DeadlineExceeded, NotReady, ServingError, TicketInvalid
from services.domain.handoff import Ticket, check_ticket, prompt_digest
from services.domain.ids import RequestId, TicketId
from services.domain.link import Accepted, StartDecode
from services.domain.spoiling import Decoding, LengthRecord
from services.domain.stream import Delta, FinishReason, StepFrame
from services.engine.port import DecodeJob, Engine, EngineInfo
from services.link.port import GatewayLink
from services.runtime.clock import Clock
from services.runtime.metrics import Meters

TICKETS_REMEMBERED_MAX = 65_536
"""Used tickets remembered to refuse a second use; a lease ends long before so many were used."""

RETRY_AFTER_S = 1.0
"""What a worker that drains, or was turned, asks of a gateway that has not heard of it yet."""


@dataclass(slots=True, kw_only=True)
class _Sequence:
    link: GatewayLink
    deadline_s: float | None
    deadline: asyncio.TimerHandle | None
    expired: bool = False
    written_tokens: int = 0
    """Here, after the first ones."""
    stalls_count: int = 0
    """Steps among them in which a prompt was computed."""
    began_s: float | None = None
    """When its first ones were written here."""

    def wrote(self, delta: Delta, *, stalled: bool, now_s: float) -> None:
        """Note tokens."""
        if not delta.token_ids:
            return
        if self.began_s is None:
            self.began_s = now_s
            return
        self.written_tokens += len(delta.token_ids)
        self.stalls_count += stalled

    def account(self, now_s: float) -> Decoding:
        """Say what it has behind it."""
        return Decoding(
            written_tokens=self.written_tokens,
            stalls_count=self.stalls_count,
            elapsed_s=0.0 if self.began_s is None else now_s - self.began_s,
        )


class DecodePhase:
    """All sequences that decode on this worker."""

    def __init__(
        self, engine: Engine, info: EngineInfo, *, clock: Clock, doubt_s: Callable[[], float], meters: Meters
    ) -> None:
        """Begin without sequences.

        Args:
            engine: that decodes.
            info: its facts.
            clock: of this process.
            doubt_s: says how much older a message may be than it seems (`services.runtime.pulse`).
            meters: of this process.
        """
        self._doubt_s = doubt_s
        self._engine = engine
        self._clock = clock
        self._info = info
        self._meters = meters
        self._sequences: dict[RequestId, _Sequence] = {}
        self._used: OrderedDict[TicketId, None] = OrderedDict()
        self._frames: dict[GatewayLink, int] = {}
        self.lengths = LengthRecord()
        """How long the outputs written here became."""
        self._open = True

    def __len__(self) -> int:
        return len(self._sequences)

    def begin_drain(self) -> None:
        """Refuse what comes from now on; what runs goes on."""
        self._open = False

    def open(self) -> None:
        """Take sequences again; at first a phase does."""
        self._open = True

    def start(self, link: GatewayLink, message: StartDecode) -> None:
        """Begin a request, or answer at once why not."""
        request_id = message.request.request_id
        refusal = self._refusal(message)
        if refusal is not None:
            self._send(link, (_failed(request_id, refusal),))
            return
        if message.ticket is not None:
            self._remember(message.ticket.ticket_id)
        sequence = _Sequence(link=link, deadline_s=message.deadline_s, deadline=None)
        if message.deadline_s is not None:
            loop = asyncio.get_running_loop()
            sequence.deadline = loop.call_later(message.deadline_s, self._expire, request_id)
        self._sequences[request_id] = sequence
        link.send(Accepted(request_id=request_id))
        self._engine.submit(
            DecodeJob(
                request=message.request,
                ticket=message.ticket,
                emitted_token_ids=message.emitted_token_ids,
            )
        )

    def _refusal(self, message: StartDecode) -> ServingError | None:
        if not self._open:
            return NotReady(
                message="this worker takes no sequences any more; send the request to another",
                retry_after_s=RETRY_AFTER_S,
            )
        if message.request.request_id in self._sequences:
            return TicketInvalid(message=f"request {message.request.request_id} runs here already")
        if message.ticket is None:
            return None
        return self._ticket_refusal(message.ticket, message)

    def _ticket_refusal(self, ticket: Ticket, message: StartDecode) -> ServingError | None:
        # The gateway took its own time off the lease; what this process stood still it cannot know.
        fault = check_ticket(
            ticket,
            digest=prompt_digest(message.request.prompt_token_ids, message.request.scope),
            prompt_tokens=message.request.prompt_tokens,
            emitted_count=len(message.emitted_token_ids),
            age_s=self._doubt_s(),
            compatibility=self._info.limits.compatibility,
            block_size_tokens=self._info.limits.block_size_tokens,
            already_used=ticket.ticket_id in self._used,
        )
        return None if fault is None else TicketInvalid(message=fault)

    def _remember(self, ticket_id: TicketId) -> None:
        self._used[ticket_id] = None
        while len(self._used) > TICKETS_REMEMBERED_MAX:
            self._used.popitem(last=False)

    def cancel(self, link: GatewayLink, request_id: RequestId) -> None:
        """Stop a request of this gateway; nothing more is said of it."""
        sequence = self._sequences.get(request_id)
        if sequence is not None and sequence.link is link:
            self._drop(request_id)
            self._engine.abort(request_id)

    def gateway_gone(self, link: GatewayLink) -> None:
        """Stop everything that a gateway asked for: nobody reads it any more."""
        self._frames.pop(link, None)
        for request_id in [r for r, s in self._sequences.items() if s.link is link]:
            self._drop(request_id)
            self._engine.abort(request_id)

    def accounts(self) -> tuple[Decoding, ...]:
        """What each sequence here has behind it."""
        now_s = self._clock.now_s()
        return tuple(sequence.account(now_s) for sequence in self._sequences.values())

    def step(self, deltas: tuple[Delta, ...], *, stalled: bool) -> None:
        """Pass one engine step on: one frame per gateway that has tokens in it.

        Args:
            deltas: of the step.
            stalled: whether a prompt was computed in it.
        """
        by_link: dict[GatewayLink, list[Delta]] = {}
        now_s = self._clock.now_s()
        for delta in deltas:
            sequence = self._sequences.get(delta.request_id)
            if sequence is None:
                continue
            sequence.wrote(delta, stalled=stalled, now_s=now_s)
            if delta.finish is not None:
                self._drop(delta.request_id)
            if delta.finish in (FinishReason.STOP, FinishReason.LENGTH):
                self.lengths.fold(sequence.written_tokens + 1)
            by_link.setdefault(sequence.link, []).append(_in_time(delta, sequence))
        for link, own in by_link.items():
            self._send(link, tuple(own))

    def _send(self, link: GatewayLink, deltas: tuple[Delta, ...]) -> None:
        step = self._frames.get(link, 0) + 1
        if link.send(StepFrame(step=step, deltas=deltas)):
            self._frames[link] = step
            self._meters.count("baton_engine_step_frames_total")
            self._meters.count("baton_engine_tokens_total", sum(len(d.token_ids) for d in deltas))

    def _expire(self, request_id: RequestId) -> None:
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            sequence.expired = True
            self._engine.abort(request_id)

    def _drop(self, request_id: RequestId) -> None:
        sequence = self._sequences.pop(request_id)
        if sequence.deadline is not None:
            sequence.deadline.cancel()


def _failed(request_id: RequestId, error: ServingError) -> Delta:
    return Delta(request_id=request_id, finish=FinishReason.ERROR, error=error)


def _in_time(delta: Delta, sequence: _Sequence) -> Delta:
    """Say of an abort that it was the deadline's, when it was."""
    if delta.finish is None or not sequence.expired or sequence.deadline_s is None:
        return delta
    error = DeadlineExceeded(
        message=f"the deadline of {sequence.deadline_s:.3f} s passed while decoding",
        deadline_s=sequence.deadline_s,
    )
    return replace(delta, finish=FinishReason.ERROR, error=error)
