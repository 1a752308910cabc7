"""The life of one request inside the gateway: its mailbox, its moments, its tokens so far.

Comes in: mail from links (deltas, offers, losses). Goes out: mail in order, and the record.
Invariant: tokens are handed out once, in order; mail is bounded by the request itself (at most one
delta per token of `max_tokens`, and a handful of other messages).
Not here: what happens next (`services.gateway.conductor`).
"""

import asyncio
from collections import deque
from dataclasses import dataclass, replace

from services.domain.errors import DeadlineExceeded, ServingError
from services.domain.handoff import Handoff
from services.domain.ids import GatewayId, RequestId, TaskId, WorkerId
from services.domain.link import TaskFailed
from services.domain.placement import DecodePlacement, Placement
from services.domain.request import InferenceRequest
from services.domain.stream import Delta, FinishReason
from services.domain.timeline import Mark, Timeline
from services.gateway.port import RequestRecord, ServeOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLost:
    """The link to a worker broke."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A prefill worker took the task."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A prefill worker waits to be told what becomes of its handoff."""

    worker_id: WorkerId
    handoff: Handoff
    received_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlinePassed:
    """Time is up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class YourTurn:
    """It has become the first that waits for room at a decode worker."""


Mail = Delta | Claimed | Offer | TaskFailed | LinkLost | DeadlinePassed | YourTurn


class Life:
    """One request from accept to its terminal event."""

    def __init__(
        self, request: InferenceRequest, options: ServeOptions, *, now_s: float, deadline_s: float
    ) -> None:
        self.request = request
        self.options = options
        self.accepted_s = now_s
        self.deadline_at_s = now_s + deadline_s
        self.emitted: list[int] = []
        self.failed_workers: set[WorkerId] = set()
        self.attempts = 0
        self.attempt_id: RequestId | None = None
        """Id under which workers know the present attempt; every attempt has its own."""
        self.task_id: TaskId | None = None
        """Task in the prefill queue, while there is one."""
        self.prefill_worker_id: WorkerId | None = None
        self.decode_worker_id: WorkerId | None = None
        self.offer: Offer | None = None
        """Handoff whose prefill worker still waits for an answer."""
        self.ticket_is_out = False
        """Whether a decode worker was sent that handoff's ticket, and may be reading the blocks."""
        self.placement: Placement | None = None
        self.decode_placement: DecodePlacement | None = None
        self.handoff: Handoff | None = None
        self.first_token_early = False
        self.prefix_ids: tuple[int, ...] = ()
        """What its prompt shares with others, for the record."""
        self._fallbacks: list[str] = []
        self._cached_tokens: int | None = None
        self._cached_told = False
        self._finish: FinishReason | None = None
        self._error: tuple[str, str] | None = None
        self._marks: list[tuple[Mark, float]] = [(Mark.ACCEPTED, 0.0)]
        self._last_token_s = 0.0
        self._repeat = 0
        self._mail: deque[Mail] = deque()
        self._waiter: asyncio.Future[None] | None = None

    # -- mail -----------------------------------------------------------------------------------

    def post(self, mail: Mail) -> None:
        """Put mail in the box."""
        self._mail.append(mail)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self, timeout_s: float | None = None) -> Mail | None:
        """Take the oldest mail; None when none came in time."""
        if not self._mail:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                if timeout_s is None:
                    await self._waiter
                else:
                    async with asyncio.timeout(timeout_s):
                        await self._waiter
            except TimeoutError:
                return None
            finally:
                self._waiter = None
        return self._mail.popleft()

    # -- tokens ---------------------------------------------------------------------------------

    def begin_attempt(self, kind: str, gateway_id: GatewayId) -> RequestId:
        """Name a new attempt, unique in the cluster; mail of older ones no longer reaches this life."""
        self.attempts += 1
        self.attempt_id = RequestId(f"{self.request.request_id}.{kind}{self.attempts}@{gateway_id}")
        self._mail = deque(m for m in self._mail if isinstance(m, DeadlinePassed))
        return self.attempt_id

    def resume_tokens(self) -> tuple[int, ...]:
        """Output tokens that the next decode attempt continues behind.

        Where decode must start at the prompt to stay exact, it writes all tokens again and as many as
        the client has are dropped.
        """
        if self.request.sampling.state_starts_at_prompt:
            self._repeat = len(self.emitted)
            return ()
        self._repeat = 0
        return tuple(self.emitted)

    def take(self, delta: Delta) -> Delta | None:
        """Turn a worker's delta into the client's: right id, nothing twice; None when all is old."""
        tokens, logprobs = delta.token_ids, delta.logprobs
        if self._repeat:
            drop = min(self._repeat, len(tokens))
            self._repeat -= drop
            tokens, logprobs = tokens[drop:], logprobs[drop:]
        if not tokens and delta.finish is None:
            return None
        self.note_cached(delta.cached_tokens)
        cached = None if self._cached_told else self._cached_tokens
        self._cached_told = self._cached_told or cached is not None
        self.emitted.extend(tokens)
        return replace(
            delta,
            request_id=self.request.request_id,
            token_ids=tokens,
            logprobs=logprobs,
            cached_tokens=cached,
        )

    def note_cached(self, cached_tokens: int | None) -> None:
        """Note how much of the prompt's KV was reused; the first word counts."""
        if self._cached_tokens is None:
            self._cached_tokens = cached_tokens

    # -- record ---------------------------------------------------------------------------------

    def mark(self, moment: Mark, now_s: float) -> None:
        """Note that a moment came."""
        self._marks.append((moment, now_s - self.accepted_s))

    def sent(self, delta: Delta, now_s: float) -> None:
        """Note that a delta goes to the client."""
        if delta.token_ids:
            if len(self.emitted) == len(delta.token_ids):
                self.mark(Mark.FIRST_TOKEN, now_s)
            self._last_token_s = now_s
        if delta.finish is not None:
            self.finish(delta.finish, delta.error, now_s)

    def finish(self, reason: FinishReason, error: ServingError | None, now_s: float) -> None:
        """Note the end; later calls change nothing."""
        if self._finish is not None:
            return
        if self.emitted:
            self.mark(Mark.LAST_TOKEN, self._last_token_s)
        self.mark(Mark.ENDED, now_s)
        self._finish = reason
        self._error = None if error is None else (error.code, str(error))

    def fall_back(self, reason: str) -> None:
        """Note why a way was left."""
        self._fallbacks.append(reason)

    def too_late(self) -> DeadlineExceeded:
        """The error of a request whose deadline passed."""
        deadline_s = self.deadline_at_s - self.accepted_s
        return DeadlineExceeded(
            message=f"the deadline of {deadline_s:g} s passed after {len(self.emitted)} tokens",
            deadline_s=deadline_s,
        )

    @property
    def ended(self) -> bool:
        """Whether the terminal event is known."""
        return self._finish is not None

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens whose KV was reused; None until known."""
        return self._cached_tokens

    def timeline(self) -> Timeline:
        """Moments so far."""
        return Timeline(marks=tuple(self._marks), output_tokens=len(self.emitted))

    def record(self) -> RequestRecord:
        """All that is known now."""
        return RequestRecord(
            request_id=self.request.request_id,
            model=self.request.model,
            prompt_tokens=self.request.prompt_tokens,
            output_tokens=len(self.emitted),
            cached_tokens=self._cached_tokens,
            placement=self.placement,
            fallbacks=tuple(self._fallbacks),
            handoff=self.handoff,
            decode_placement=self.decode_placement,
            first_token_early=self.first_token_early,
            timeline=self.timeline(),
            finish=self._finish,
            error=self._error,
            accepted_s=self.accepted_s,
            prefix_ids=self.prefix_ids,
        )
