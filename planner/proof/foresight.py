"""What whole workers cost even with perfect foresight.

Comes in: the work of a load, a start-up time. Goes out: the cheapest fleet that has, in each step of the
clairvoyant bound, as many whole workers as keep the targets by queueing theory, at the rate and the lengths
that will come. Invariant: as of the bound: start-up is paid, idle workers are kept over short gaps.
It tells how much of a planner's cost over the bound is due to queues and whole workers, which no forecast
mends; it is no bound: a planner that is late more often in one step and less in another may be cheaper.
Not here: the theory (`planner.sizing.needs`), the search for the cheapest fleet (`bound`).
"""

import numpy as np

from planner.load import ExpectedLoad
from planner.proof.bound import BOUND_STEP_S, Bound, Counts, cheapest_counted, steps_of
from planner.proof.load import Floats
from planner.proof.work import Work
from planner.sizing.needs import NOTHING, Needs, Sizing


def foreseen_fleet(work: Work, *, startup_s: float, late_frac: float, step_s: float = BOUND_STEP_S) -> Bound:
    """Find the cheapest fleet of whole workers that keeps the targets in every step.

    Args:
        work: of a load.
        startup_s: of a worker.
        late_frac: share of the requests of a step that may be late.
        step_s: as of the bound.
    """
    load = work.load
    starts, steps = steps_of(load, step_s)
    arrivals = load.arrivals[load.counted]
    counts = np.add.reduceat(arrivals, starts)

    def mean(values: Floats) -> Floats:
        sums = np.add.reduceat(arrivals * values[load.counted], starts)
        return np.asarray(sums / np.maximum(counts, 1e-9))

    prompts, uncached = mean(load.prompt_tokens), mean(load.uncached_tokens)
    outputs, contexts = mean(load.output_tokens), mean(load.context_tokens)
    needed: Counts = np.zeros(counts.size, dtype=np.int64)
    hint: Needs = NOTHING
    for place in np.flatnonzero(counts > 0).tolist():
        expected = ExpectedLoad(
            requests_per_s=float(counts[place] / (steps[place] * load.step_s)),
            prompt_tokens=float(prompts[place]),
            uncached_tokens=float(uncached[place]),
            uncached_square_tokens=float(uncached[place]) ** 2 * load.spread_square,
            output_tokens=float(outputs[place]),
            context_tokens=float(contexts[place]),
            dispersion=load.dispersion,
        )
        sizing = Sizing(work.engine, expected, work.slo, spills=True)
        hint = sizing.needs(allowed_late_frac=late_frac, prefill_min=0, hint=hint)
        needed[place] = hint.total
    return cheapest_counted(load, needed, step_s=step_s, startup_s=startup_s)
