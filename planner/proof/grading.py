"""Who met the targets: shares of the requests of each step of the load.

Comes in: the course of a fluid cluster. Goes out: shares. What the fluid does not tell, the waiting that
chance adds within a step, comes from queueing theory:

- A busy pool takes everything that waits into its next step, so the batch per step is the fixed point
  `m = arrivals x (fixed step + m x prompt) / servers`, between 1 and a full step. A prompt waits for the next
  of the workers (evenly up to a step over the servers) and for its own step with the others in it, whose time
  varies as a sum of so many prompts does when a long step makes the next one long (autoregression).
- Beyond that it waits with the probability and the mean of G/G/c in heavy traffic (Sakasegawa 1977;
  Kingman's variability), exponentially distributed, at the pace of well filled steps. What would wait too
  long stands behind, and so shortens the wait of others: of the share `w` that would be late without that,
  `(1 - busy) w / (1 - busy w)` is (Boots and Tijms 1999).
- Sequences that decode vary as arrivals within one life do, given the arrivals of the step; between workers
  their contexts vary, of which a router that balances leaves half. Prompts that spill are no part of that:
  the mean they make is within `SPILL_FRAC` of the target, and the router takes them elsewhere when it varies.

Invariant: shares are in [0, 1] and of those requests that an idle cluster would have served in time.
Not here: the queues (`fluid`).
"""

from dataclasses import dataclass

import numpy as np

from planner.proof.fluid import Course
from planner.proof.load import SPREAD_WEIGHTS, Floats
from planner.proof.work import Work

BALANCED_FRAC = 0.5
"""Of the variance of the workers' contexts that is left by a router that balances."""
STOOD_FRAC = 0.5
"""Of what its prefill leaves of the target, a request that is served in time has stood at most so much in the
fluid's queue on the average: what would stand longer stands behind, and is counted there."""
BUSY_MAX = 0.999
"""What is beyond it is in the fluid's queue."""
_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
"""Abramowitz and Stegun, 7.1.26: error below 1.5e-7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grades:
    """Of each step graded; every array has shape [steps].

    Attributes:
        possible: requests that an idle cluster would have served within both targets.
        refused: others that were turned away: they count as missed.
        ttft: of these, the share that met the TTFT target.
        tpot: the same of the TPOT target.
        arrivals: all requests.
    """

    possible: Floats
    refused: Floats
    ttft: Floats
    tpot: Floats
    arrivals: Floats

    @property
    def met(self) -> Floats:
        """Requests that met both targets."""
        return np.asarray(self.possible * self.ttft * self.tpot)

    @property
    def judged(self) -> Floats:
        """Requests that count: possible ones, and those turned away."""
        return np.asarray(self.possible + self.refused)

    @property
    def attained_frac(self) -> float:
        """Share of the judged requests that met both targets; 1 where there was none."""
        judged = float(self.judged.sum())
        return float(self.met.sum()) / judged if judged > 0 else 1.0


def grade(work: Work, course: Course, steps: slice) -> Grades:
    """Tell for some steps which share of requests met each target.

    Args:
        work: of the load.
        course: of the cluster.
        steps: which.
    """
    arrivals, work = work.load.arrivals[steps], work.steady
    possible_frac = work.possible_frac[steps]
    seen_s = work.own_s[steps] + _shown_later(work, course, steps)[:, None]
    in_time = (_in_time(work, course, steps, seen_s) * work.is_possible[steps]) @ SPREAD_WEIGHTS
    ttft = (1.0 - course.late_frac[steps]) * in_time / np.maximum(possible_frac, 1e-12)
    counts = np.maximum(arrivals, 1e-9)
    tpot = _tpot(work, course, steps) * (1.0 - np.clip(course.stuck[steps] / counts, 0.0, 1.0))
    long_work = np.maximum(1.0 - work.possible_work_frac[steps], 1e-9)
    return Grades(
        possible=arrivals * possible_frac,
        refused=course.refused[steps] * np.minimum((1.0 - possible_frac) / long_work, 1.0),
        ttft=np.where(possible_frac > 0, np.minimum(ttft, 1.0), 1.0),
        tpot=tpot,
        arrivals=arrivals,
    )


def _shown_later(work: Work, course: Course, steps: slice) -> Floats:
    """Say how long the first token is held back, so that the second follows within the TPOT target."""
    model = work.engine.performance
    return np.maximum(0.0, model.handoff_s + _step_s(work, course, steps) - work.slo.tpot_s)


def _step_s(work: Work, course: Course, steps: slice) -> Floats:
    decoders = course.decoders[steps]
    batch = np.minimum(course.running[steps] / np.maximum(decoders, 1e-9), work.seats[steps])
    return np.asarray(work.engine.performance.decode_step_s + work.sequence_s[steps] * batch)


def _in_time(work: Work, course: Course, steps: slice, own_s: Floats) -> Floats:
    """Compute the probability that a prompt waits no longer than its own prefill leaves.

    Args:
        work: of the load.
        course: of the cluster.
        steps: which.
        own_s: shape [steps, points].

    Returns:
        Shape [steps, points].
    """
    load, fixed_s = work.load, work.engine.performance.prefill_step_s
    servers = np.maximum(course.servers[steps], 1e-9)
    everybody = load.arrivals[steps] / load.step_s
    rate = everybody * work.possible_work_frac[steps]
    prompt_s, queued_s = work.prompt_s[steps], work.queued_s[steps]
    most = np.maximum(1.0, 1.0 / work.step_share[steps])
    left = servers - rate * prompt_s
    batch = np.where(left > 0, np.clip(rate * fixed_s / np.maximum(left, 1e-9), 1.0, most), most)
    shared_s = (batch - 1.0) * prompt_s
    turn_s = np.where(batch > 1.0, (fixed_s + batch * prompt_s) / np.maximum(servers, 1.0), 0.0)
    carried = np.minimum(rate * prompt_s / servers, BUSY_MAX)
    square = batch * prompt_s**2 * work.own_square[steps] * load.dispersion / (1.0 - carried**2)
    apart_s = np.sqrt(np.where(batch > 1.0, square, 0.0) + turn_s**2 / 12 + 1e-12)

    busy = np.minimum(rate * queued_s / servers, BUSY_MAX)
    busy_alone = np.minimum(everybody * (fixed_s / batch + prompt_s) / servers, 1.0)
    waits = busy_alone ** np.maximum(np.sqrt(2 * (servers + 1)) - 1, 1.0)
    variation = (load.dispersion + work.own_square[steps] - 1.0) / 2
    mean_s = np.maximum(queued_s * variation / (servers * (1.0 - busy)), 1e-9)

    room_s = work.slo.ttft_s - own_s
    stood_s = np.minimum(course.queue_s[steps, None], np.maximum(room_s, 0.0) * STOOD_FRAC)
    room_s = room_s - stood_s - (shared_s + turn_s / 2)[:, None]
    turned = normal_share(room_s / apart_s[:, None])
    mates_s = (busy_alone * prompt_s)[:, None]
    beyond = waits[:, None] * np.exp(-np.maximum(room_s - mates_s, 0.0) / mean_s[:, None])
    lost = (1.0 - busy)[:, None] * beyond / (1.0 - busy[:, None] * beyond)
    is_served = (course.servers[steps] > 0)[:, None]
    return np.asarray(turned * (1.0 - lost) * is_served)


def _tpot(work: Work, course: Course, steps: slice) -> Floats:
    """Compute the probability that a request's mean step stays within the target."""
    load, model = work.load, work.engine.performance
    decoders = np.maximum(course.decoders[steps], 1e-9)
    sequence_s, context = work.sequence_s[steps], load.context_tokens[steps]
    most = np.minimum((work.slo.tpot_s - model.decode_step_s) / sequence_s, work.seats[steps])
    batch = course.running[steps] / decoders
    rate = load.arrivals[steps] / load.step_s
    life_s = work.later_tokens[steps] * _step_s(work, course, steps)
    unseen = np.maximum(0.0, 1.0 - life_s / load.step_s)
    together = load.dispersion * rate * life_s * unseen * 2 / 3 / decoders**2
    lengths = (load.spread_square - 1.0) * (model.decode_context_token_s * context / sequence_s) ** 2
    apart = (batch * lengths + 1.0) * BALANCED_FRAC * np.where(decoders > 1, 1.0, 0.0)
    deviation = np.sqrt(together + apart + 1e-12)
    met = normal_share((most - batch) / deviation)
    return np.asarray(np.where(course.decoders[steps] > 0, met, 0.0))


def normal_share(values: Floats) -> Floats:
    """Compute the standard normal distribution's share below each value."""
    scaled = np.abs(values) / np.sqrt(2.0)
    term = 1.0 / (1.0 + 0.3275911 * scaled)
    series = term * (_ERF[0] + term * (_ERF[1] + term * (_ERF[2] + term * (_ERF[3] + term * _ERF[4]))))
    error = 1.0 - series * np.exp(-scaled * scaled)
    return np.asarray(0.5 * (1.0 + np.sign(values) * error))
