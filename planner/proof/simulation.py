"""A scaler and a fluid cluster through a load.

Comes in: a scaler, the work of a load. Goes out: a run: the fleet, and who met the targets, step by step.
Invariant: the scaler sees what a shell could tell it, never what is to come; the same arguments give the same
run if the scaler decides the same. Not here: what a run is worth (`outcome`).
"""

import math
from dataclasses import dataclass

import numpy as np

from planner.decision import Scaler
from planner.observation import Attainment, Demand, Observation
from planner.proof.fleet import Fleet
from planner.proof.fluid import Course, FluidCluster
from planner.proof.grading import Grades, grade
from planner.proof.load import Floats, Load
from planner.proof.mixture import Mixture, Part
from planner.proof.work import Work
from services.domain.worker import Phase

FIRST_LOOK_S = 30.0
"""A scaler looks for the first time after so long; later it sees the demand since its last look."""
GRADED_S = 60.0
"""Attainment is told anew after so long."""
LIVES_TO_DRAIN = 3.0
"""A worker has finished decoding after so many mean lives of a sequence: 95 of 100 are shorter, the rest
migrates."""
FINISH_MAX_S = 120.0
"""No worker takes longer to finish what it has."""
SPARE_AT_FIRST = 2.0
"""The fleet of the first step is so many times the work: the quiet time before a load makes it what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A load served; arrays have shape [steps].

    Attributes:
        work: of the load.
        paid: workers that cost money; of several kinds, in prices of one of the reference.
        power_w: of these.
        prefill: workers that take prompts.
        decode: workers that take sequences.
        grades: of the whole load.
        course: of the cluster.
        counts: of flips, started and removed workers and actions: [steps, 4], so far.
        reasons: the last decision's.
    """

    work: Work
    paid: Floats
    power_w: Floats
    prefill: Floats
    decode: Floats
    grades: Grades
    course: Course
    counts: Floats
    reasons: tuple[str, ...]


def run_scaler(
    scaler: Scaler,
    work: Work,
    *,
    startup_s: float,
    kind: str = "default",
    fleet: Mixture | None = None,
    spills: bool = True,
    tells_attainment: bool = True,
) -> Run:
    """Let a scaler run the cluster through a load.

    Args:
        scaler: decides; looks again when its last decision says so, at the next step of the load.
        work: of the load.
        startup_s: of a worker.
        kind: of all workers.
        fleet: at first; None: one of that kind, large enough for the first step.
        spills: decode workers help out with prompts.
        tells_attainment: the scaler learns who met the targets; else that all did, which is quicker.
    """
    load = work.load
    fleet = fleet or Mixture((Part(fleet=first_fleet(work, startup_s=startup_s, kind=kind)),))
    cluster = FluidCluster(work=work, spills=spills)
    cluster.running = cluster.life_s(0, fleet.capacity().decode) * float(load.arrivals[0]) / load.step_s
    paid, power, prefill, decode = (np.zeros(load.steps) for _ in range(4))
    counts = np.zeros((load.steps, 4))
    seen_to, graded, each = 0, 0, max(1, round(GRADED_S / load.step_s))
    attainment, look_s = Attainment(), FIRST_LOOK_S
    reasons: tuple[str, ...] = ()
    for place in range(load.steps):
        now_s = place * load.step_s
        fleet.advance(now_s)
        if place > 0 and now_s >= look_s - 1e-9:
            if tells_attainment and place - graded >= each:
                attainment = _attained(grade(work, cluster.course, slice(graded, place)))
                graded = place
            observation = Observation(
                at_s=now_s,
                age_s=0.0,
                demand=_demand(load, slice(seen_to, place)),
                backlog=cluster.backlog(place),
                pools=fleet.pools(now_s),
                attainment=attainment,
            )
            decision = scaler.decide(observation)
            fleet.obey(decision, now_s, _finish_s(cluster, place, fleet))
            seen_to, look_s, reasons = place, now_s + decision.look_s, decision.reasons
        capacity = fleet.capacity()
        paid[place], power[place] = fleet.paid, fleet.power_w
        prefill[place], decode[place] = capacity.prefill, capacity.decode
        counts[place] = fleet.counts
        cluster.step(place, capacity)
    return Run(
        work=work,
        paid=paid,
        power_w=power,
        prefill=prefill,
        decode=decode,
        grades=grade(work, cluster.course, slice(0, load.steps)),
        course=cluster.course,
        counts=counts,
        reasons=reasons,
    )


def first_fleet(work: Work, *, startup_s: float, kind: str) -> Fleet:
    """Make a fleet that is large enough for the first step."""
    fleet = Fleet(startup_s=startup_s, kind=kind)
    fleet.ready[Phase.PREFILL] = max(1, math.ceil(SPARE_AT_FIRST * float(work.prefill_gpus[0])))
    fleet.ready[Phase.DECODE] = max(1, math.ceil(SPARE_AT_FIRST * float(work.decode_gpus[0])))
    return fleet


def _finish_s(cluster: FluidCluster, place: int, fleet: Mixture) -> dict[Phase, float]:
    """Say how long a worker of each role takes to finish what it has."""
    life_s = cluster.life_s(place, fleet.capacity().decode)
    own_s = float(cluster.work.queued_s[place])
    return {Phase.PREFILL: own_s, Phase.DECODE: min(LIVES_TO_DRAIN * life_s, FINISH_MAX_S)}


def _attained(grades: Grades) -> Attainment:
    possible = float(grades.possible.sum())
    if possible <= 0:
        return Attainment()
    return Attainment(
        request_count=round(float(grades.arrivals.sum())),
        ttft_frac=float(grades.ttft @ grades.possible) / possible,
        tpot_frac=float(grades.tpot @ grades.possible) / possible,
    )


def _demand(load: Load, seen: slice) -> Demand:
    arrivals = load.arrivals[seen]
    count, window_s = float(arrivals.sum()), arrivals.size * load.step_s

    def mean(values: Floats) -> float:
        return float(values[seen] @ arrivals) / count if count > 0 else 0.0

    uncached = mean(load.uncached_tokens)
    return Demand(
        window_s=window_s,
        requests_per_s=count / window_s,
        prompt_tokens=mean(load.prompt_tokens),
        uncached_tokens=uncached,
        uncached_square_tokens=uncached**2 * load.spread_square,
        output_tokens=mean(load.output_tokens),
        dispersion=load.dispersion,
    )
