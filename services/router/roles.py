"""How many of some equal workers should decode, the others being free to prefill.

Comes in: prompts as they arrive (in seconds of prefill), what decodes now. Goes out: a number of workers.
The number is the one for which the wait of a prompt, as a share of the TTFT target (of less where prompts are
short), and a decode step, as a share of the TPOT target, each to a power of its own, add up to least: so a
second more of wait and a second more per token are measured by what each may take, and nobody sets a ratio.
Steps are the dearer the longer they are, so that busy minutes do not make ITL's tail; waits the less. Wait:
Sakasegawa's approximation for several servers (1977), and half a burst, since prompts come in bursts: (index
of dispersion - 1) / 2 of them are ahead on average; where prompts share steps, less. A load of just now is
none for ever: its queue has only that long to grow, and it counts for no more than a share of the TTFT
target, since it makes prompts late whoever decodes. What all this gets wrong is learned
(`services.router.learning.wait_record`).
Invariant: functions of values; a number is always within what was asked for.
Not here: which workers (`services.router.soft_roles`), what the planner orders.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from services.domain.performance import PerformanceModel

RATE_MEMORY_S = 30.0
"""Time after which an arrival counts for 1/e in the rate: longer than a burst, shorter than a daily rise."""
SEEN_LEAST_S = 1.0
"""Time that the first arrivals are taken to stand for at least."""
SHAPE_WEIGHT = 0.01
"""Weight of the newest prompt in the mean and the spread of prefill times: about the last hundred speak."""
BURST_WINDOW_S = 0.2
"""Arrivals are counted by windows of so long: about one prefill, since what comes within one must wait."""
BURST_WEIGHT = 0.02
"""Weight of the newest window: about the last ten seconds speak."""
WAIT_MAX_S = 10.0
"""Wait that stands for a queue that just grows without end."""
STEP_FRAC_MAX = 0.95
"""Share of the TPOT target that a step may take; the rest is for what joins meanwhile."""
STEP_WEIGHT = 2.05
"""What a step that takes the whole TPOT target counts for, beside a wait that takes the whole TTFT target. A
choice: more of it gives shorter steps and longer TTFT."""
STEP_POWER = 2.75
"""How much dearer a longer step is: twice as long counts for two to this power. So the longest steps, which
make ITL's tail, are the first to go."""
WAIT_POWER = 0.9
"""The same of waits, the other way: the first tenth of a second, of short prompts the larger part of their
TTFT, counts for more than a further one where prompts wait for long anyway."""
SOLO_FACTOR = 24
"""A wait is measured by the TTFT target, or by so many times what prompts take by themselves where that is
less: a tenth of a second is much to prompts of a few hundredths."""
PASSING_FRAC_MAX = 0.29
"""Share of the TTFT target that a wait which passes counts for at most, however long it is. A choice: more of
it makes TTFT shorter where bursts come, and steps longer while they last."""
KV_USE_MAX = 0.9
"""Share of the KV memory of workers that decode which sequences may fill; the rest is for what they write."""
CHANGE_FRAC = 0.05
"""Share by which another number of workers must be cheaper than the one chosen last: a worker that begins to
decode and stops again makes prompts wait and sequences move, for nothing."""
MORE_COUNT = 0.2
"""Sequences by which a worker fills up beyond its equal share, since it falls short of its limit by a part of
one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Prefill work that arrives.

    Attributes:
        load: seconds of prefill per second.
        mean_s: of one prompt's prefill.
        variation: squared coefficient of variation of prefill times.
        dispersion: index of dispersion of the arrivals: 1 for independent ones, b for bursts of b.
        shared_frac: share of this work that is left where prompts fill up steps together, in (0, 1].
        recent_load: the same as `load`, lately; 0 where nobody looks at it.
        recent_s: time that "lately" stands for.
    """

    load: float
    mean_s: float
    variation: float
    dispersion: float
    shared_frac: float = 1.0
    recent_load: float = 0.0
    recent_s: float = 0.0

    def wait_scale_s(self, ttft_target_s: float) -> float:
        """Say what waits are measured by.

        Args:
            ttft_target_s: of a request.
        """
        solo_s = self.mean_s * math.sqrt(1 + self.variation)
        return min(ttft_target_s, SOLO_FACTOR * solo_s) if solo_s else ttft_target_s

    def wait_s(self, workers: int, *, factor: float = 1.0, passing_max_s: float = math.inf) -> float:
        """Predict the mean wait with so many workers that prefill.

        What came lately goes on for as long again at most: until then a queue grows by what comes beyond what
        workers do, and by what chance adds to it (reflected Brownian motion at full load), on average over
        that time by a half of the first and two thirds of the second.

        Args:
            workers: that prefill, >= 1.
            factor: what is learned to multiply all of it by.
            passing_max_s: what that growth counts for at most, approached the more slowly the nearer it is.
        """
        lasting_s = factor * self._lasting_s(max(self.load, self.recent_load), workers)
        if self.recent_load <= self.load:
            return lasting_s
        used = self.recent_load * self.shared_frac / workers
        excess_s = max(0.0, used - 1.0) * self.recent_s / 2
        variance = self.mean_s * (1 + self.variation) / workers * used * self.recent_s
        chance_s = math.sqrt(2 * variance / math.pi) * 2 / 3
        passing_s = factor * (excess_s + chance_s)
        if passing_max_s < math.inf:
            passing_s = passing_max_s * (1 - math.exp(-passing_s / passing_max_s))
        return min(lasting_s, factor * self._lasting_s(self.load, workers) + passing_s)

    def _lasting_s(self, load: float, workers: int) -> float:
        """Predict it for a load that goes on for ever: with a step for each prompt, or with full steps.

        Prompts that wait together share steps, and the more of them do, the less each costs. So a worker that
        is never idle takes what comes during one step into the next: a prompt waits for the rest of that step
        and then for those beside it in its own.
        """
        alone_s = self._queued_s(load / workers, workers, self.mean_s)
        used = load * self.shared_frac / workers
        if used >= 1.0:
            return alone_s
        step_s = max(self.mean_s, self.mean_s * (1 - self.shared_frac) / (1 - used))
        among_s = step_s - self.mean_s + used * step_s / 2
        return min(alone_s, among_s + self._queued_s(used, workers, self.mean_s * self.shared_frac))

    def _queued_s(self, used: float, workers: int, mean_s: float) -> float:
        """Predict the wait of prompts that are computed one by one."""
        if used >= 1.0:
            return WAIT_MAX_S * used  # without end with any number, and still better with more
        crowd: float = used ** (math.sqrt(2 * (workers + 1)) - 1) / (workers * (1 - used))
        burst = max(0.0, self.dispersion - 1) / 2 / workers
        return min(WAIT_MAX_S, mean_s * ((1 + self.variation) / 2 * crowd + burst))


class DemandRecord:
    """Folds arrivals into a demand."""

    def __init__(self) -> None:
        """Know of no prompt."""
        self._work_s = 0.0
        self._began_s: float | None = None
        self._at_s = 0.0
        self._mean_s = 0.0
        self._shared_s = 0.0
        self._square = 0.0
        self._window, self._count = 0, 0
        self._counts, self._count_squares = 1.0, 1.0

    def fold(self, prefill_s: float, now_s: float, *, shared_s: float) -> None:
        """Take a prompt.

        Args:
            prefill_s: what its prefill takes where that is shortest.
            now_s: of its arrival.
            shared_s: what it adds there to steps that others fill up.
        """
        self._work_s = self._work_s * math.exp(-(now_s - self._at_s) / RATE_MEMORY_S) + prefill_s
        self._at_s = now_s
        self._began_s = now_s if self._began_s is None else self._began_s
        weight = SHAPE_WEIGHT if self._mean_s else 1.0
        self._mean_s += weight * (prefill_s - self._mean_s)
        self._shared_s += weight * (shared_s - self._shared_s)
        self._square += weight * (prefill_s * prefill_s - self._square)
        window = int(now_s / BURST_WINDOW_S)
        passed = window - self._window
        if passed:  # the window counted last, and empty ones behind it
            keep, newest = (1 - BURST_WEIGHT) ** passed, BURST_WEIGHT * (1 - BURST_WEIGHT) ** (passed - 1)
            self._counts = self._counts * keep + newest * self._count
            self._count_squares = self._count_squares * keep + newest * self._count * self._count
            self._window, self._count = window, 0
        self._count += 1

    def demand(self) -> Demand:
        """Describe what arrives."""
        mean_square = self._mean_s * self._mean_s
        elapsed_s = self._at_s - (self._at_s if self._began_s is None else self._began_s)
        remembered_s = RATE_MEMORY_S * (1.0 - math.exp(-elapsed_s / RATE_MEMORY_S))
        return Demand(
            shared_frac=self._shared_s / self._mean_s if self._mean_s else 1.0,
            load=self._work_s / max(remembered_s, SEEN_LEAST_S),
            mean_s=self._mean_s,
            variation=max(0.0, self._square / mean_square - 1) if mean_square else 0.0,
            dispersion=(self._count_squares - self._counts**2) / self._counts if self._counts else 1.0,
        )


class RecentLoad:
    """Prefill work per second over a time that its asker names, such as that for which a sequence decodes."""

    def __init__(self) -> None:
        """Know of no prompt."""
        self._load = 0.0
        self._at_s = 0.0

    def fold(self, prefill_s: float, now_s: float, memory_s: float) -> None:
        """Take a prompt.

        Args:
            prefill_s: what its prefill takes where that is shortest.
            now_s: of its arrival.
            memory_s: time after which it counts for 1/e, > 0.
        """
        self._load = self.load(now_s, memory_s) + prefill_s / memory_s
        self._at_s = now_s

    def load(self, now_s: float, memory_s: float) -> float:
        """Say how many seconds of prefill came per second."""
        return self._load * math.exp(-(now_s - self._at_s) / memory_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decodes:
    """What decodes now, on equal engines.

    Attributes:
        performance: of each engine.
        sequence_count: sequences, of all workers together.
        context_tokens: KV tokens of these together.
    """

    performance: PerformanceModel
    sequence_count: int
    context_tokens: int

    def step_s(self, workers: int, more: int = 0) -> float:
        """Predict a decode step if so many workers shared all, and so many more like them came to each."""
        tokens = self.context_tokens // workers
        if more:
            tokens += more * self.context_tokens // max(1, self.sequence_count)
        sequences = -(-self.sequence_count // workers) + more
        return self.performance.decode_s(sequence_count=sequences, context_tokens=tokens)


def step_limit_s(decoders: int, decodes: Decodes, *, tpot_target_s: float) -> float:
    """Choose how long a step may become before a sequence goes to an emptier worker.

    As long as if all of them shared what decodes, and each had a part of a sequence more: so they are enough
    for what is there, and fill up to about the same. With one worker it is as much as the target allows.

    Args:
        decoders: workers that decode, as `decoder_count` has it.
        decodes: what decodes now.
        tpot_target_s: of a request.
    """
    most_s = STEP_FRAC_MAX * tpot_target_s
    if decoders == 1:
        return most_s
    even_s = decodes.step_s(decoders)
    return min(most_s, even_s + MORE_COUNT * (decodes.step_s(decoders, more=1) - even_s))


def decoder_count(
    worker_count: int,
    demand: Demand,
    *,
    step_s: Callable[[int], float],
    ttft_target_s: float,
    tpot_target_s: float,
    least: int = 1,
    most: int | None = None,
    wait_factor: float = 1.0,
    now: int | None = None,
) -> int:
    """Choose how many workers decode.

    Args:
        worker_count: workers in all, >= 1; with one it does everything.
        demand: what is to be prefilled.
        step_s: decode step when what decodes now is shared by so many workers, s.
        ttft_target_s: of a request.
        tpot_target_s: of a request.
        least: workers that decode in any case, >= 1.
        most: that may decode, >= `least`; None is all but one.
        wait_factor: what a predicted wait is multiplied by, as `services.router.learning.wait_record` has it.
        now: what was chosen last; None is nothing.
    """
    best: tuple[bool, float, int] | None = None
    scale_s = demand.wait_scale_s(ttft_target_s)
    for decoders in range(least, max(least, worker_count - 1 if most is None else most) + 1):
        share = step_s(decoders) / tpot_target_s
        wait_s = demand.wait_s(
            max(1, worker_count - decoders),
            factor=wait_factor,
            passing_max_s=PASSING_FRAC_MAX * ttft_target_s,
        )
        wait = wait_s / scale_s
        cost = wait**WAIT_POWER + STEP_WEIGHT * share**STEP_POWER
        if decoders == now:
            cost *= 1 - CHANGE_FRAC
        offer = (share > STEP_FRAC_MAX, cost, decoders)
        if best is None or offer < best:
            best = offer
    return best[2] if best else least
