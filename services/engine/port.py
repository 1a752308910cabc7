"""The engine port: what a worker asks of an engine, whichever it is.

Comes in: prefill and decode jobs, aborts, releases. Goes out: through sinks given at `start`, one call
per engine step with the deltas of all its requests, and KV events in terms of our own hashes.
Invariant: every submitted job ends in exactly one final output (a delta with `finish`, or a prefill
result), also when it is aborted or the engine dies; blocks in = blocks out once all jobs and leases ended.
Not here: queues, gateways, tickets' single use (`services.prefill`, `services.decode`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from services.domain.blocks import KvEvent
from services.domain.handoff import Ticket
from services.domain.ids import EngineEpoch, RequestId, TicketId
from services.domain.integrity import KvChecked
from services.domain.pace import StepSpan
from services.domain.performance import PerformanceModel
from services.domain.request import InferenceRequest
from services.domain.stream import Delta
from services.domain.worker import WorkerLimits, WorkerLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """Facts of a started engine."""

    epoch: EngineEpoch
    kind: str
    """"vllm" or "simulated"."""
    limits: WorkerLimits
    performance: PerformanceModel


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillJob:
    """Read a prompt, sample one token, keep the prompt's blocks under a lease."""

    request: InferenceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeJob:
    """Write the tokens of a request.

    Attributes:
        request: the original request.
        ticket: a checked ticket of the prompt's KV, or None to compute the prompt here.
        emitted_token_ids: output tokens that exist already; generation continues behind them.
            `Sampling.max_tokens` and `min_tokens` count them.
    """

    request: InferenceRequest
    ticket: Ticket | None = None
    emitted_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefilled:
    """The final output of a prefill job.

    Attributes:
        request_id: of the job.
        first: the sampled token. `finish` is set when it also is the last (stop token, or
            max_tokens is 1), when the job was aborted or failed; then `ticket` is None.
            `cached_tokens` and `local_prefill_s` are set unless it failed.
        ticket: where the blocks are; its lease runs from now.
    """

    request_id: RequestId
    first: Delta
    ticket: Ticket | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPulled:
    """Transfers of KV into this engine that ended; what ran at the same time adds up.

    Attributes:
        moved_bytes: by all of them together.
        moving_s: from the order to the end of each, summed.
    """

    moved_bytes: int
    moving_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStep:
    """What one step of the engine brought."""

    deltas: tuple[Delta, ...] = ()
    """Of decode jobs."""
    prefilled: tuple[Prefilled, ...] = ()
    kv_checks: tuple[KvChecked, ...] = ()
    """Of pulls that ended and whose ticket carried fingerprints of blocks that were pulled. Where one did
    not match, its job ends in `KvCorrupt` (or is computed here, if the engine is set so), nothing was
    computed from its blocks, and the engine has dropped its whole prefix cache."""
    pulled: KvPulled | None = None
    """None where nothing was pulled, or the engine cannot tell."""
    span: StepSpan | None = None
    """What was computed since the outputs before, by the model in `EngineInfo`, and how long it took; None
    where the engine cannot tell (it was idle in between, or a job was aborted)."""


StepSink = Callable[[EngineStep], None]
"""Called on the event loop; must not block and must not raise."""

KvSink = Callable[[tuple[KvEvent, ...]], None]
"""Called on the event loop, in the order in which the cache changed; must not block or raise."""


class Engine(Protocol):
    """One engine on one set of devices. All methods are called from one event loop."""

    async def start(self, steps: StepSink, kv_events: KvSink) -> EngineInfo:
        """Load the model and begin stepping.

        Raises:
            EngineFailed: the engine did not come up; the message says what to do.
        """
        ...

    def submit(self, job: PrefillJob | DecodeJob) -> None:
        """Hand over a job; its outputs come through the step sink.

        A job that the engine cannot run (too long, unknown parameters) ends in one final output
        whose delta carries the error; nothing is raised.

        Raises:
            InternalFault: the request id is in use.
        """
        ...

    def abort(self, request_id: RequestId) -> None:
        """Stop a job and free its blocks; its final output is `aborted`. Unknown ids are ignored."""
        ...

    def release(self, ticket_id: TicketId) -> None:
        """End a lease early because nobody will pull. Unknown ids are ignored."""
        ...

    def load(self) -> WorkerLoad:
        """Read the counters; no I/O."""
        ...

    async def check_health(self) -> None:
        """Ask the engine itself whether it can still step.

        Raises:
            EngineFailed: it cannot; all its jobs have ended or will end in an error.
        """
        ...

    async def stop(self) -> None:
        """End all jobs as aborted, then the engine, its processes and ports. Idempotent."""
        ...
