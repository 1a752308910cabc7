"""The port that placement policies implement, and what they see.

Comes in: jobs, and a fleet to look at. Goes out: ways (where a job prefills and where it decodes).
A policy chooses at arrival, turns a job away, or keeps jobs and hands them out later (`dispatch`), so a
router that places at once, fixed splits and one late-bound queue with soft roles are all policies.
Invariant: a policy never learns the output length of a job before its end. Not here: policies (`policies`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from services.domain.spoiling import Decoding
from services.replay.presets import EngineTiming
from services.replay.sequence import Job


class FirstToken(StrEnum):
    """Where the first token of a job that is handed over comes from, and when it is shown."""

    DECODE = "decode"
    """Written by the decode worker, once the KV is there."""
    PREFILL = "prefill"
    """Written by the prefill worker, shown at once."""
    JUST_IN_TIME = "just-in-time"
    """Written by the prefill worker, shown as early as the second can be expected to follow in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanisms:
    """How handoffs work under a policy."""

    first_token: FirstToken = FirstToken.DECODE
    streams_kv: bool = False
    """KV moves chunk by chunk while prefill goes on; the decode worker is then chosen when it begins."""
    streams_layers: bool = False
    """Where it streams: a chunk moves layer by layer while it is computed, not only when it is done."""
    shares_links: bool = True
    """Transfers to one worker go one after another, as in the simulated engine; else each has a link."""
    cools_handed_over: bool = False
    """Blocks that the decode worker has got are the first to be evicted where they were computed."""
    moves_whole_prompts: bool = False
    """Blocks that the decode worker has cached already move as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Where a job goes."""

    prefill: int
    """Number of the worker that computes the prompt."""
    decode: int | None = None
    """Number of the worker that writes; the same worker: nothing moves; None: asked for later."""
    fetch_from: int | None = None
    """Worker from which missing leading blocks are fetched before the prompt is computed."""
    fetch_blocks: int = 0
    """Leading blocks wanted from there; those the prefill worker has do not move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A job that is turned away: nothing is done for it."""

    reason: str
    """Short; refused jobs are counted by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """One worker at one moment."""

    decode_count: int
    """Sequences that decode."""
    decode_context_tokens: int
    """KV tokens of these together."""
    waiting_count: int
    """Sequences that hold no block yet."""
    pulling_count: int
    """Sequences that hold blocks whose KV is on its way, or has come and waits for a place."""
    prefill_count: int
    """Sequences of which part of the prompt is computed."""
    prefill_pending_tokens: int
    """Still to be computed; of sequences not admitted yet, cached tokens are counted too."""
    free_blocks: int
    """Blocks that nobody holds, evictable ones included."""
    step_end_s: float | None
    """When the step under way ends; None: it is idle, or between two steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A sequence that decodes."""

    job: Job
    context_tokens: int
    """Its KV tokens at this moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A sequence that is to go on decoding at another worker.

    Its KV is copied while it goes on; then it changes over between two of its tokens.
    """

    job: Job
    source: int
    target: int


class Fleet(Protocol):
    """The workers as a policy sees them: as they are, or as they were."""

    @property
    def timing(self) -> EngineTiming:
        """Every worker's engine."""
        ...

    @property
    def worker_count(self) -> int:
        """Workers, numbered from 0."""
        ...

    def state(self, worker: int) -> WorkerState:
        """Look at a worker."""
        ...

    def overlap_blocks(self, worker: int, block_names: Sequence[int]) -> int:
        """Count the leading blocks that a worker holds."""
        ...

    def decodes(self, worker: int) -> Sequence[Decoding]:
        """List what the decoding sequences of a worker have behind them."""
        ...

    def running(self, worker: int) -> Sequence[Running]:
        """List the decoding sequences of a worker."""
        ...


class Policy(Protocol):
    """Decides where jobs go. Calls come in the order of time."""

    @property
    def mechanisms(self) -> Mechanisms:
        """How handoffs work; does not change."""
        ...

    @property
    def held_count(self) -> int:
        """Jobs that it keeps."""
        ...

    def arrive(self, job: Job, now_s: float) -> Way | Refusal | None:
        """Place a new job, turn it away, or keep it (None)."""
        ...

    def dispatch(self, now_s: float) -> Sequence[tuple[Job, Way]]:
        """Hand out kept jobs; asked while it keeps any and something happens.

        That is: a job arrives, a timer rings, or a worker plans its next step to which something new came
        or in whose last one a prompt, a part of one that is streamed, or an output ended. A step in which
        all only wrote another token is nothing of the kind. What goes to a worker that is between two steps
        is part of its next step.
        """
        ...

    def decode_worker(self, job: Job, prefill: int, now_s: float) -> int:
        """Choose who writes, where the way left it open: at prefill's end, at its start if KV streams."""
        ...

    def spoke(self, job: Job, now_s: float) -> None:
        """Learn that the prompt is computed: its first token is written."""
        ...

    def ended(self, job: Job, now_s: float, output_tokens: int) -> None:
        """Learn that a job has all its tokens, and how many they are."""
        ...

    def wake_s(self) -> float | None:
        """When to call `dispatch` although nothing happens; None: never. Asked after each other call."""
        ...


@runtime_checkable
class Mover(Protocol):
    """What a policy has besides that moves sequences which decode."""

    def moves(self, now_s: float) -> Sequence[Move]:
        """Name sequences to move; asked whenever a prompt was computed or a sequence ended."""
        ...

    def moved(self, move: Move, now_s: float, *, is_there: bool) -> None:
        """Learn how a move ended: the target goes on, or the source, or the sequence is over."""
        ...
