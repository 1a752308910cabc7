"""Numbers of workers in columns: what changes with each status, and what stays while an engine lives.

Comes in: one worker's view or limits. Goes out: its entries, in the order of the columns. Invariant: an entry
is what the view says, as a float (exact: counts stay far below 2**53).
Not here: who stands where in them (`services.router.fleet.lineup`).
"""

from dataclasses import dataclass
from math import floor, inf

import numpy as np
import numpy.typing as npt

from services.domain.performance import PerformanceModel, PrefillChunk
from services.domain.worker import WorkerLimits
from services.router.fleet.worker_view import WorkerView

Column = npt.NDArray[np.float64]
"""Shape [places]."""
Number = Column | float
"""A column, or one number when it is the same at all places: several times as cheap to compute with."""
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]
Ties = npt.NDArray[np.uint64]
ZERO = np.array(0.0)
"""Zero as an array without places: cheaper beside a column than a number, which is made one each time."""


def larger(one: Number, other: Number) -> Number:
    """Take the larger of two numbers, place by place."""
    if isinstance(one, float) and isinstance(other, float):
        return max(one, other)
    return np.maximum(one, other)


def rounded_down(number: Number) -> Number:
    """Round down to whole numbers, place by place."""
    return np.floor(number) if isinstance(number, np.ndarray) else float(floor(number))


@dataclass(frozen=True, slots=True)
class Loads:
    """What changes with each status and placement; see `WorkerView`."""

    seen_at_s: Column
    """Not a number where the worker takes no new work: then no comparison with it holds."""
    sequence_count: Column
    running_count: Column
    context_tokens: Column
    """KV tokens of the sequences that decode."""
    waiting_count: Column
    """Sequences accepted that do not decode yet."""
    is_idle: Column
    """1 where nothing decodes, else 0."""
    free_blocks: Column
    free_count: Column
    """Sequences that could join before the step is full."""
    backlog_s: Column
    step_s: Column
    slowdown: Column
    freed_blocks: Column
    """Blocks that become free when one running sequence ends."""
    end_step_s: Column
    """Part of each step after which one of them ends, if each has one token to write; 0 where none runs."""
    end_s: Column
    """Until a handoff that holds memory is read, where nothing runs; else 0."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What stays while an engine lives; one number each when all workers of the model are equal."""

    block_size_tokens: Number
    kv_blocks: Number
    step_tokens_max: Number
    holds_tokens_max: Number
    kv_bytes_per_token: Number
    prefill_step_s: Number
    prefill_token_s: Number
    prefill_attention_s: Number
    prefill_square_s: Number
    full_step_s: Number
    """The shortest prefill step that uses its whole budget: without any token before it."""
    decode_step_s: Number
    decode_sequence_s: Number
    decode_first_s: Number
    """A decode step of one sequence, its context not counted."""
    decode_second_s: Number
    """The same of two sequences."""
    decode_context_token_s: Number
    decode_context_square_s: Number
    decode_least_s: Number
    decode_shortest_s: Number
    """A decode step of one sequence without context."""
    handoff_s: Number
    transfer_bytes_per_s: Number


LOADS_COUNT = len(Loads.__dataclass_fields__)
TRAITS_COUNT = len(Traits.__dataclass_fields__)


def loads_of(view: WorkerView) -> tuple[float, ...]:
    """One worker's numbers, in the order of `Loads`; see `prices.room_wait_s` for the last three."""
    running_count = view.running_count
    return (
        view.seen_at_s if view.ready else np.nan,
        view.sequence_count,
        running_count,
        view.context_tokens,
        view.sequence_count - running_count,
        not running_count,
        view.free_blocks,
        view.limits.sequences_max - view.sequence_count,
        view.backlog_s,
        view.step_s,
        view.slowdown,
        max(1, view.used_blocks // max(1, running_count)),
        view.step_s / running_count if running_count else 0.0,
        0.0 if running_count else view.status.performance.handoff_s,
    )


def traits_of(limits: WorkerLimits, performance: PerformanceModel) -> tuple[float, ...]:
    """One worker's numbers, in the order of `Traits`."""
    p, budget = performance, limits.step_tokens_max
    return (
        limits.block_size_tokens,
        limits.kv_blocks,
        budget,
        min(limits.context_tokens_max, limits.kv_blocks * limits.block_size_tokens),
        limits.kv_bytes_per_token,
        p.prefill_step_s,
        p.prefill_token_s,
        p.prefill_attention_s,
        p.prefill_square_s,
        p.prefill_s((PrefillChunk(new_tokens=budget, context_tokens=0),)),
        p.decode_step_s,
        p.decode_sequence_s,
        p.decode_step_s + p.decode_sequence_s,
        p.decode_step_s + p.decode_sequence_s * 2,
        p.decode_context_token_s,
        p.decode_context_square_s,
        p.decode_least_s,
        p.decode_s(sequence_count=1, context_tokens=0),
        p.handoff_s,
        p.transfer_bytes_per_s,
    )


@dataclass(slots=True)
class Fullest:
    """How full the fullest workers of a part are, one number of each kind; never less full than they are."""

    sequence_count: float = inf
    free_count: float = -inf
    free_blocks: float = -inf

    def fold(self, view: WorkerView) -> None:
        """Take a worker as it is now. That it was fuller before is not forgotten."""
        count = view.sequence_count
        self.sequence_count = max(self.sequence_count, count)
        self.free_count = min(self.free_count, view.limits.sequences_max - count)
        self.free_blocks = min(self.free_blocks, view.free_blocks)

    def measure(self, loads: Loads) -> None:
        """Look at all workers, at least one."""
        self.sequence_count = float(loads.sequence_count[loads.sequence_count.argmax()])
        self.free_count = float(loads.free_count[loads.free_count.argmin()])
        self.free_blocks = float(loads.free_blocks[loads.free_blocks.argmin()])

    def has_room(self, blocks: float, growth_blocks: float, joining: float) -> bool:
        """Whether there is room even so; see `Part.all_have_room`."""
        if self.free_count <= joining:
            return False
        return self.free_blocks - self.sequence_count * growth_blocks >= blocks


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring places: the decoders, the prefillers, or both one after the other."""

    count: int
    loads: Loads
    traits: Traits
    fullest: Fullest

    def all_have_room(self, blocks: Number, *, growth_blocks: Number = 0.0, joining: float = 0.0) -> bool:
        """Whether there surely is room for one more sequence at every worker: mostly so, and cheap to ask.

        Args:
            blocks: that it needs, and those that come before it.
            growth_blocks: that each sequence there will need too.
            joining: sequences that come before it.

        Returns:
            True when there is. False says nothing: each worker is to be looked at.
        """
        if isinstance(blocks, np.ndarray) or isinstance(growth_blocks, np.ndarray):
            return False
        if self.fullest.has_room(blocks, growth_blocks, joining):
            return True
        self.fullest.measure(self.loads)
        return self.fullest.has_room(blocks, growth_blocks, joining)
