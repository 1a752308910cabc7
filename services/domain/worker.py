"""What a worker says of itself, several times a second, so that routers and the planner can decide.

Comes in: counters of an engine and its phases. Goes out: a frozen status.
Invariant: a status says nothing of time; the reader ages it by its own clock from its arrival.
Not here: what the worker's cache holds (`services.domain.blocks`).
"""

from dataclasses import dataclass
from enum import StrEnum

from services.domain.ids import EngineEpoch, WorkerId
from services.domain.performance import PerformanceModel


class Phase(StrEnum):
    """A phase of serving, and the role of a worker that runs it."""

    PREFILL = "prefill"
    DECODE = "decode"

    @property
    def other(self) -> "Phase":
        """The phase of the two that this one is not."""
        return Phase.DECODE if self is Phase.PREFILL else Phase.PREFILL


class Lifecycle(StrEnum):
    """Where a process stands between start and exit."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """What does not change while an engine lives."""

    block_size_tokens: int
    kv_blocks: int
    """Capacity of the KV cache."""
    kv_bytes_per_token: int
    context_tokens_max: int
    """Prompt and output together."""
    sequences_max: int
    """Sequences in one step."""
    step_tokens_max: int
    """Tokens computed in one step (prefill chunks and decodes together)."""
    compatibility: str
    """Engine kind, version and KV layout: workers may hand over KV when these are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    """What an engine is busy with right now."""

    running_count: int = 0
    """Sequences that decode."""
    running_context_tokens: int = 0
    """KV tokens of these sequences together."""
    waiting_count: int = 0
    """Sequences accepted and not yet decoding."""
    waiting_prefill_tokens: int = 0
    """Prompt tokens still to be computed, of prompts accepted so far."""
    kv_used_blocks: int = 0
    """Blocks that cannot be evicted: running sequences and leases."""
    leased_blocks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """One worker at one moment.

    Attributes:
        worker_id: who.
        epoch: life of its engine.
        sequence: grows with each status of this epoch.
        model: name of the served model.
        phases: phases this worker takes new work for, in a fixed order.
        lifecycle: only READY takes new work.
        address: host:port of the worker's link server.
        limits: fixed facts of its engine.
        load: what it is busy with.
        performance: how fast its engine is: its model, corrected by what it measures (`pace`).
        engine_kind: "vllm" or "simulated".
        kv_sequence: number of the last KV event batch published; 0 when none was.
        suspects: lives of engines whose blocks repeatedly arrived here changed, while those of others
            arrived intact; a worker that finds its own among them gives itself up.
    """

    worker_id: WorkerId
    epoch: EngineEpoch
    sequence: int
    model: str
    phases: tuple[Phase, ...]
    lifecycle: Lifecycle
    address: str
    limits: WorkerLimits
    load: WorkerLoad
    performance: PerformanceModel
    engine_kind: str
    kv_sequence: int
    suspects: tuple[EngineEpoch, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleOrder:
    """What a worker is to do from now on; the worker's status says when it does.

    Attributes:
        worker_id: who.
        epoch: life of its engine that is meant: a later one has the role that its launcher gave it.
        phases: phases to take new work for, at least one.
    """

    worker_id: WorkerId
    epoch: EngineEpoch
    phases: tuple[Phase, ...]
