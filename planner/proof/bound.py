"""The clairvoyant bound: fewest GPU-seconds of any fleet that knows the whole load ahead.

Comes in: the work of a load, a start-up time. Goes out: GPU-seconds and the fleet over time.
Why it is a bound, and that it is reached (the derivation is in docs/planner-proof.md): in each step at least
`ceil(prefill + decode work)` GPUs must be there, roles are changed for nothing, so only their sum counts.
GPUs are alike: let the k-th be the one that is there whenever at least k are. Then the cost is a sum over k
of its time and of `startup_s` for each of its beginnings, and each k is decided alone: over a gap in which it
is not needed it is kept if the gap is shorter than `startup_s`.
Not here: what a request costs (`work`), what a fleet without foresight pays (`simulation`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.proof.load import Floats, Load
from planner.proof.work import Work

Counts = NDArray[np.int64]

BOUND_STEP_S = 30.0
"""Work is counted over so long: longer than a TTFT target, so that it may be put off that far for nothing."""
EXCESS = 1e-9
"""Work that is above a whole number by no more is that number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The cheapest fleet.

    Attributes:
        gpu_s: GPU-seconds, start-up included.
        fleet: GPUs that serve, shape [bound steps].
        step_s: length of a bound step.
        starts_count: GPUs started.
    """

    gpu_s: float
    fleet: Counts
    step_s: float
    starts_count: int


def cheapest_fleet(needed: Counts, *, step_s: float, startup_s: float, last_s: float | None = None) -> Bound:
    """Find the cheapest fleet that has at least the needed GPUs in each step.

    GPUs of the first step are there already, as many as it likes; each later beginning costs `startup_s`.

    Args:
        needed: GPUs, shape [steps].
        step_s: length of a step.
        startup_s: time in which a GPU is paid and does not serve yet.
        last_s: length of the last step; None: as of the others.
    """
    fleet = np.zeros_like(needed)
    paid_s, starts = 0.0, 0
    for level in range(1, int(needed.max(initial=0)) + 1):
        # What lies before the first use is a gap as well: it could be there from the first step on.
        used = np.concatenate([[-1], np.flatnonzero(needed >= level)])
        gaps = np.diff(used) - 1
        is_kept = (gaps > 0) & (gaps * step_s <= startup_s)
        begins = int(np.count_nonzero((gaps > 0) & ~is_kept))
        present = np.zeros(needed.size, dtype=np.int64)
        present[used[1:]] = 1
        for place in np.flatnonzero(is_kept):
            present[used[place] + 1 : used[place + 1]] = 1
        fleet += present
        starts += begins
        paid_s += float(present.sum()) * step_s + begins * startup_s
    paid_s -= (step_s - (step_s if last_s is None else last_s)) * float(fleet[-1])
    return Bound(gpu_s=paid_s, fleet=fleet, step_s=step_s, starts_count=starts)


def clairvoyant_bound(work: Work, *, startup_s: float, step_s: float = BOUND_STEP_S) -> Bound:
    """Bound the GPU-seconds of the counted part of a load from below.

    Args:
        work: of a load.
        startup_s: of a replica.
        step_s: work is counted over so long; a load shorter than ten of them is cut into ten.
    """
    needed = _needed(work, work.prefill_gpus + work.decode_gpus, step_s)
    return cheapest_counted(work.load, needed, step_s=step_s, startup_s=startup_s)


def mixed_bound(works: Sequence[Work], prices: Sequence[float], *, step_s: float = BOUND_STEP_S) -> Bound:
    """Bound what any fleet of several kinds of GPUs costs for the counted part of a load.

    Each role's work is done by the kind that does it at the least price, in parts of GPUs that start for
    nothing: below every fleet of whole ones.

    Args:
        works: of one load, on each kind.
        prices: of a GPU of each kind, in prices of one of the reference.
        step_s: as of `clairvoyant_bound`.
    """
    load = works[0].load
    priced = list(zip(works, prices, strict=True))
    cost = np.min([price * work.prefill_gpus for work, price in priced], axis=0)
    cost = cost + np.min([price * work.decode_gpus for work, price in priced], axis=0)
    starts, lengths = steps_of(load, step_s)
    mean = np.add.reduceat(cost[load.counted], starts) / lengths
    return Bound(
        gpu_s=float(cost[load.counted].sum()) * load.step_s,
        fleet=np.ceil(mean - EXCESS).astype(np.int64),
        step_s=_per(load, step_s) * load.step_s,
        starts_count=0,
    )


def steps_of(load: Load, step_s: float) -> tuple[Counts, Counts]:
    """Cut the counted part of a load into steps of the bound; the last may be shorter.

    Returns:
        Where each begins in the counted part, and its length, both in steps of the load.
    """
    counted = int(load.counted.stop - load.counted.start)
    starts = np.arange(0, counted, _per(load, step_s))
    return starts, np.diff(np.append(starts, counted))


def cheapest_counted(load: Load, needed: Counts, *, step_s: float, startup_s: float) -> Bound:
    """Find the cheapest fleet of the counted part, whose last step may be shorter.

    Args:
        load: whose part.
        needed: GPUs, shape [steps of `steps_of`].
        step_s: as given to `steps_of`.
        startup_s: as of `cheapest_fleet`.
    """
    long_s = _per(load, step_s) * load.step_s
    counted_s = (load.counted.stop - load.counted.start) * load.step_s
    last_s = counted_s - (needed.size - 1) * long_s
    return cheapest_fleet(needed, step_s=long_s, startup_s=startup_s, last_s=last_s)


def _per(load: Load, step_s: float) -> int:
    """Count the steps of the load in one of the bound's."""
    counted = int(load.counted.stop - load.counted.start)
    return max(1, min(round(step_s / load.step_s), counted // 10))


def _needed(work: Work, gpus: Floats, step_s: float) -> Counts:
    """Count the GPUs that keep up with the mean work of each step of the bound."""
    starts, lengths = steps_of(work.load, step_s)
    return np.ceil(np.add.reduceat(gpus[work.load.counted], starts) / lengths - EXCESS).astype(np.int64)
