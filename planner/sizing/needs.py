"""The fewest workers that keep a load within its targets.

Comes in: an engine, a load, targets, the share of requests that may be late. Goes out: workers of both roles
and what they are expected to reach. Invariant: more demand or stricter targets never need fewer workers, as
long as the same prompts can meet them at all; both roles share one allowance of late requests, so that it is
spent where a worker more would gain least.
Not here: queueing itself (`prefill_wait`, `decode_batch`), limits and money (`arranging`), time
(`stabilising`).

Decode workers take prompts that the prefill workers cannot do at once, in the time that their own steps
leave, as Baton's router has it: what is missing of a whole prefill worker need not cost one.

A target that no number of workers reaches is replaced by the nearest one that can be reached: the plan is
then that of the nearest target, and says so. Prompts that are late even without a queue change no plan.
"""

import math
from copy import copy
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from planner.load import Array, Engine, ExpectedLoad, Spread, scenarios
from planner.sizing.decode_batch import decode_curve, late_decode, settle
from planner.sizing.prefill_wait import alone_within_s, late_prefill, prefill_costs
from services.domain.slo import Slo

NEAREST = 1.05
"""A target out of reach is replaced by the best that can be had, times this: the last steps towards a bound
cost without end, so the plan stops a twentieth before it."""
LOCAL_PACE_FRAC = 0.8
"""Decode workers take prompts while their step stays below so much of the TPOT target: the router's own bound
(`services.router.pricing.seats`)."""
BUSY_MAX_FRAC = 0.98
"""Of a decode worker's time, the most that prompts may take in a plan."""
WORKERS_END = 4_096
"""No plan has more workers of a role; the roles' own limits are far below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Workers that a load needs.

    Attributes:
        prefill: workers of that role.
        decode: workers of that role.
        late_frac: share of requests expected to miss a target.
    """

    prefill: int
    decode: int
    late_frac: float = 0.0

    @property
    def total(self) -> int:
        """Of both roles."""
        return self.prefill + self.decode


NOTHING = Needs(prefill=0, decode=0)


class Sizing:
    """One load on one engine."""

    def __init__(self, engine: Engine, load: ExpectedLoad, slo: Slo, *, spills: bool) -> None:
        """Prepare.

        Args:
            engine: of every worker.
            load: to be carried.
            slo: targets asked for.
            spills: whether decode workers take prompts.
        """
        self.load = load
        self._costs = prefill_costs(engine, load)
        self._curve = decode_curve(engine, load)
        self._spills = spills
        self._later_tokens = max(0.0, load.output_tokens - 1.0)
        self.slo = slo
        """Targets, replaced where they are out of reach."""
        self.unreachable: tuple[str, ...] = ()
        """Sentences on targets that were replaced."""
        self.expect(load.requests_per_s, load.spread)
        self._reach_for(alone_within_s(engine, load, self._costs, 0.5), float(self._curve.step_s[1]))

    def at_rate(self, requests_per_s: float, spread: Spread) -> "Sizing":
        """Size the same requests at another rate, known to other standard errors."""
        other = copy(self)
        other.expect(requests_per_s, spread)
        return other

    def expect(self, requests_per_s: float, spread: Spread) -> None:
        """Take another rate, known to other standard errors.

        The work of both roles grows and shrinks together, each as far as it is unsure: a scenario is one rate
        of prompts and one of outputs.
        """
        self.load = replace(self.load, requests_per_s=requests_per_s, spread=spread)
        both = spread.prefill_frac, spread.decode_frac
        (self._prompts, self._outputs), (first, second) = zip(
            *(scenarios(requests_per_s, frac) for frac in both), strict=True
        )
        self._shares = (first + second) / 2.0
        # Where prompts and decodes share workers they slow each other down, and what chance brings within the
        # life of a sequence has to be carried at once.
        life_s = max(1e-3, self._later_tokens * self.slo.tpot_s)
        square = self.load.uncached_square_tokens / max(1.0, self.load.uncached_tokens) ** 2
        chance = (square + self.load.dispersion - 1.0) / max(1e-9, requests_per_s * life_s)
        self._shared_prompts, self._shared_outputs = (
            scenarios(requests_per_s, math.hypot(frac, math.sqrt(chance)))[0] for frac in both
        )

    def late(self, prefill: Array, decode: Array) -> Array:
        """Share of requests that miss a target, at most.

        Args:
            prefill: workers of plans; shape [plans].
            decode: workers of plans; shape [plans].

        Returns:
            Shape [plans].
        """
        slo, curve = self.slo, self._curve
        readers, writers = prefill[:, None], np.maximum(decode, 1e-9)[:, None]
        leans = self.load.requests_per_s * self._costs.full_s > readers
        prompts = np.where(leans, self._shared_prompts, self._prompts)
        outputs = np.where(leans, self._shared_outputs, self._outputs)
        asked, tokens = prompts * self._costs.full_s, outputs * self._later_tokens / writers
        passed, room = self._shared(asked, tokens, readers, writers)
        taken = np.clip((asked * passed - readers) / writers, 0.0, room)
        late_prompts = late_prefill(
            self._costs,
            prompts,
            readers + room * decode[:, None],
            ttft_s=slo.ttft_s,
            dispersion=self.load.dispersion,
        )
        late_tokens = late_decode(
            curve,
            settle(curve, tokens * passed / (1.0 - taken)),
            decode[:, None],
            tpot_s=slo.tpot_s * (1.0 - taken),
            dispersion=self.load.dispersion,
        )
        late = late_prompts + late_tokens - late_prompts * late_tokens
        return np.asarray(np.minimum(1.0, late @ self._shares))

    def _shared(self, asked: Array, tokens: Array, readers: Array, writers: Array) -> tuple[Array, Array]:
        """Share out the time of decode workers among outputs and prompts.

        They take prompts while an output's token takes no longer than the router's pace `p`. Outputs of `t`
        tokens per second keep `t p` sequences in flight then, so of a decode worker's time
        `1 - (fixed + each t p) / p` is left. What of the requests passes prefill, `f`, fills both roles:
        `f asked = readers + writers (1 - fixed / p - each t f)`.

        Args:
            asked: prefill workers that the prompts keep busy; shape [plans, rates].
            tokens: per second that outputs ask of a decode worker; shape [plans, rates].
            readers: prefill workers; shape [plans, 1].
            writers: decode workers; shape [plans, 1].

        Returns:
            Share of requests that pass, and of a decode worker's time that prompts may take; both of shape
            [plans, rates].
        """
        curve, tpot_s = self._curve, self.slo.tpot_s
        free, each_s = np.zeros_like(tokens), 0.0
        if self._spills:
            pace_s, each_s = LOCAL_PACE_FRAC * tpot_s, curve.sequence_s
            step_s = np.minimum(curve.fixed_s + each_s * tokens * pace_s, pace_s)
            own_s = self._costs.step_s + self._costs.marginal_s
            fits = own_s <= self._later_tokens * (tpot_s - step_s) / 2.0
            free = np.where(fits, max(0.0, 1.0 - curve.fixed_s / pace_s), 0.0)
        most = (readers + writers * free) / np.maximum(asked + writers * each_s * tokens, 1e-12)
        alone = np.minimum(readers / np.maximum(asked, 1e-12), 1.0)
        passed = np.clip(most, alone, 1.0)
        return passed, np.clip(free - each_s * tokens * passed, 0.0, BUSY_MAX_FRAC)

    def late_of(self, prefill: float, decode: float) -> float:
        """Share of requests that miss a target with this one plan."""
        return float(self.late(np.array([float(prefill)]), np.array([float(decode)]))[0])

    def needs(self, *, allowed_late_frac: float, prefill_min: int = 1, hint: Needs | None = None) -> Needs:
        """Find the fewest workers.

        Args:
            allowed_late_frac: share of requests that may miss a target.
            prefill_min: fewest prefill workers; without any the decode workers do both.
            hint: where to begin to look, if that is anywhere near the work.
        """
        if self.load.requests_per_s <= 0.0:
            return NOTHING
        work = self._work()
        begin = hint if hint is not None and work.total / 2 < hint.total < 2 * work.total else work
        here = Needs(prefill=max(prefill_min, begin.prefill), decode=max(1, begin.decode))
        seen: set[tuple[int, int]] = set()
        while (here.prefill, here.decode) not in seen:
            seen.add((here.prefill, here.decode))
            near = self._best_near(here, allowed_late_frac, prefill_min)
            here = near if near is not None else self._grown(here, allowed_late_frac)
        return here

    def prefill_work_s(self, tokens: float) -> float:
        """Worker-seconds that so many waiting prompt tokens take in full steps."""
        return tokens * self._costs.full_s / max(1.0, self.load.uncached_tokens)

    def prefill_rate(self) -> float:
        """Requests per second that one worker prefills in the long run."""
        return 1.0 / self._costs.full_s

    def decode_rate(self) -> float:
        """Requests per second that one worker decodes at the largest batch within the target."""
        curve = self._curve
        most = min(curve.batch_max, float(np.interp(self.slo.tpot_s, curve.step_s[1:], curve.batch[1:])))
        return float(np.interp(most, curve.batch, curve.tokens_per_s)) / max(1e-9, self._later_tokens)

    def _work(self) -> Needs:
        rate = self.load.requests_per_s
        prefill, decode = rate / self.prefill_rate(), rate / self.decode_rate()
        return Needs(prefill=min(WORKERS_END, round(prefill) + 1), decode=min(WORKERS_END, round(decode) + 1))

    def _grown(self, begin: Needs, allowed: float) -> Needs:
        """Add workers, ever more at a time, until no more are late than allowed."""
        here, step = begin, 1
        while here.prefill < WORKERS_END or here.decode < WORKERS_END:
            options = [
                Needs(prefill=min(WORKERS_END, here.prefill + p), decode=min(WORKERS_END, here.decode + d))
                for p, d in ((0, 0), (step, 0), (0, step), (step, step))
            ]
            rated = self._rated(options)
            carried = [plan for plan in rated if plan.late_frac <= allowed]
            if carried:
                return min(carried, key=lambda plan: (plan.total, plan.late_frac))
            here, step = rated[3], 2 * step
        return here

    def _best_near(self, here: Needs, allowed: float, prefill_min: int) -> Needs | None:
        """Find the cheapest plan that is at most one worker of each role away."""
        around = [
            Needs(prefill=here.prefill + p, decode=here.decode + d)
            for p, d in product((-1, 0, 1), repeat=2)
            if p + d <= 0 and here.prefill + p >= prefill_min and here.decode + d >= 1
        ]
        carried = [plan for plan in self._rated(around) if plan.late_frac <= allowed]
        return min(carried, key=lambda plan: (plan.total, plan.late_frac)) if carried else None

    def _rated(self, plans: list[Needs]) -> list[Needs]:
        late = self.late(
            np.array([float(plan.prefill) for plan in plans]),
            np.array([float(plan.decode) for plan in plans]),
        )
        return [
            Needs(prefill=plan.prefill, decode=plan.decode, late_frac=frac)
            for plan, frac in zip(plans, late.tolist(), strict=True)
        ]

    def _reach_for(self, median_alone_s: float, step_alone_s: float) -> None:
        ttft_s, tpot_s, said = self.slo.ttft_s, self.slo.tpot_s, []
        if NEAREST * median_alone_s > ttft_s:
            ttft_s = NEAREST * median_alone_s
            said.append(
                f"a TTFT of {self.slo.ttft_s:g} s is out of reach: half of the prompts take "
                f"{median_alone_s:.3g} s and more by themselves; sized for {ttft_s:.3g} s"
            )
        if NEAREST * step_alone_s > tpot_s:
            tpot_s = NEAREST * step_alone_s
            said.append(
                f"a TPOT of {self.slo.tpot_s * 1e3:g} ms is out of reach: a step of one sequence takes "
                f"{step_alone_s * 1e3:.3g} ms; sized for {tpot_s * 1e3:.3g} ms"
            )
        self.slo, self.unreachable = Slo(ttft_s=ttft_s, tpot_s=tpot_s), tuple(said)
