"""The planner: observation, forecast, needs, arrangement, decision.

Comes in: observations in the order of time. Goes out: decisions with reasons and the next look.
Invariant: a function of what was observed so far; it holds nothing that observations would not teach it
again. Nothing is done on a missing or stale observation. Not here: reading clocks and counters, carrying
decisions out.
"""

import math
from dataclasses import replace

from planner.advice import Lately, advise
from planner.arranging.arranger import Arrangement, Arranger, Wanted
from planner.arranging.kinds import Worths, plain_worths, worths
from planner.arranging.role_keeping import RoleKeeping
from planner.decision import Decision, PoolOrder
from planner.forecasting.ensemble import Forecast, Forecaster
from planner.load import Engine, ExpectedLoad
from planner.observation import Backlog, Demand, Observation
from planner.quiet import is_called, is_quiet, resting, waking
from planner.settings import PlannerSettings
from planner.sizing.needs import NOTHING, Needs, Sizing
from planner.sizing.shaping import Shape, engine_of, load_of, shape_of
from planner.stabilising.believing import ModelRecord
from planner.stabilising.error_budget import ErrorBudget
from planner.stabilising.keeping import NeedsKeeping
from planner.wording import headline, why
from services.domain.worker import Phase

ALLOWED_MAX_FRAC = 0.5
"""Share of requests that any plan may let be late at most."""
NOW, LATER, BETWEEN = 0, 1, 2
"""Horizons of the forecaster, and what it expects at most up to the later one."""


class Planner:
    """Sizes both pools; a `Scaler`."""

    def __init__(self, settings: PlannerSettings) -> None:
        """Begin without any observation."""
        self._settings = settings
        start_s = self._start_s = max(kind.start_s for kind in settings.kinds)
        self._forecaster = Forecaster((settings.look_s, start_s + settings.look_s))
        self._kept = NeedsKeeping()
        self._budget = ErrorBudget(
            late_frac=1.0 - settings.targets.attainment_frac,
            memory_s=settings.budget_memory_s,
            factor_max=settings.budget_factor_max,
        )
        self._model = ModelRecord(settings.budget_memory_s)
        self._roles = RoleKeeping(settings.budget_memory_s)
        self._lately = Lately()
        self._shape: Shape | None = None
        self._at_s: float | None = None
        self._hints = [NOTHING, NOTHING, NOTHING]
        self._acted_s = -math.inf
        self._since_s: float | None = None
        self._seen_s = 0.0

    @property
    def allowed_late_frac(self) -> float:
        """Share of requests that may be late in a plan made now, as the model counts them."""
        allowed = self._budget.allowed_late_frac * self._model.factor
        return min(ALLOWED_MAX_FRAC, self._budget.allowed_max_frac, allowed)

    def decide(self, observation: Observation) -> Decision:
        """Decide, given what is known now."""
        if observation.age_s > self._settings.stale_after_s:
            age_s, most_s = observation.age_s, self._settings.stale_after_s
            return self._hold(
                observation, f"what is known is {age_s:.0f} s old, more than {most_s:g} s: nothing is changed"
            )
        self._note_gap(observation.at_s)
        self._note_starts(observation)
        demand = observation.demand
        if demand is not None and (demand.requests_per_s <= 0.0 or demand.output_tokens > 0.0):
            self._learn(observation, demand)
        if is_called(observation):
            return self._wake(observation)
        if demand is None or self._shape is None:
            return self._hold(observation, "nothing is known of any request: nothing is changed")
        now, later = self._forecaster.ahead(NOW), self._forecaster.ahead(LATER)
        if is_quiet(demand, observation.backlog, soon_count=later.requests_per_s * self._start_s):
            return self._rest(observation)
        return self._plan(observation, self._shape, now, later)

    # ------------------------------------------------------------------ learning

    def _learn(self, observation: Observation, demand: Demand) -> None:
        at_s = observation.at_s
        if self._at_s is not None and at_s <= self._at_s:
            return
        self._forecaster.fold(at_s, demand)
        self._budget.fold(at_s, observation.attainment, demand.requests_per_s)
        if demand.requests_per_s > 0.0:
            seen = shape_of(demand, observation.backlog)
            if self._shape is not None and self._at_s is not None:
                seen = self._shape.moved(seen, at_s - self._at_s)
            self._shape = seen
        self._at_s = at_s

    def _note_gap(self, at_s: float) -> None:
        """Begin anew to know what was needed lately, at the first look and after looks were missing."""
        if self._since_s is None or at_s - self._seen_s > self._settings.stale_after_s:
            self._since_s = at_s
        self._seen_s = at_s

    def _note_starts(self, observation: Observation) -> None:
        """Plan ahead for as long as starts take, where that is measured."""
        measured = {pool.kind: pool.start_s for pool in observation.pools if pool.start_s is not None}
        start_s = max(measured.get(kind.name, kind.start_s) for kind in self._settings.kinds)
        if start_s != self._start_s:
            self._start_s = start_s
            self._forecaster.aim(LATER, start_s + self._settings.look_s)

    # ------------------------------------------------------------------ nothing to plan

    def _wake(self, observation: Observation) -> Decision:
        wanted, said = waking(observation.backlog)
        return self._arranged(observation, plain_worths(self._settings.kinds), wanted, [said])

    def _rest(self, observation: Observation) -> Decision:
        at_s = observation.at_s
        wanted, said = resting(
            self._settings,
            kept=self._keep(at_s, NOTHING, NOTHING, None),
            start_s=self._start_s,
            may_stop=self._may_stop(at_s),
        )
        return self._arranged(observation, plain_worths(self._settings.kinds), wanted, [said])

    def _hold(self, observation: Observation, reason: str) -> Decision:
        return Decision(
            orders=tuple(
                PoolOrder(phase=pool.phase, kind=pool.kind, worker_count=pool.ordered_count)
                for pool in observation.pools
            ),
            reasons=(reason,),
            look_s=self._settings.look_s,
        )

    # ------------------------------------------------------------------ a plan

    def _plan(self, observation: Observation, shape: Shape, now: Forecast, later: Forecast) -> Decision:
        targets, attainment = self._settings.targets, observation.attainment
        load = load_of(later, shape)
        engines = {kind.name: engine_of(kind, attainment) for kind in self._settings.kinds}
        known = self._worths(engines, load)
        soon = Sizing(engines[known.reference], load, targets.slo, spills=self._settings.spills)
        present = soon.at_rate(now.requests_per_s, now.spread)
        self._compare(observation, present, known)
        allowed = self.allowed_late_frac
        needs = self._hints[LATER] = self._needs(soon, allowed, self._hints[LATER])
        at_once = needs  # no more than later, where less is asked for now and that is as sure
        if now.requests_per_s > later.requests_per_s or not now.spread.within(later.spread):
            at_once = self._hints[NOW] = self._needs(present, allowed, self._hints[NOW])
        clearing = self._clearing(soon, observation.backlog, at_once)
        at_once = replace(at_once, prefill=at_once.prefill + math.ceil(clearing))
        between = self._foreseen(soon, allowed)
        wanted = Wanted(
            now=at_once,
            later=needs,
            kept=self._keep(observation.at_s, at_once, needs, between),
            late_of=lambda prefill, decode: present.late_of(prefill - clearing, decode),
            late_later_of=soon.late_of,
            allowed_late_frac=allowed,
            may_stop=self._may_stop(observation.at_s),
            show_s=self._show_s(load, now, allowed),
        )
        said = why(
            now=now,
            later=later,
            horizon_s=self._settings.look_s + self._start_s,
            needs=needs,
            sizing=soon,
            allowed=allowed,
            targets=targets,
        )
        if clearing > 0.0:
            waiting = observation.backlog.waiting_count
            said.append(f"{waiting} prompts wait too long: {clearing:.1f} prefill workers more clear them")
        if between is not None:
            said.append(
                f"a season of {self._forecaster.season_s:.0f} s came as foretold: who is not needed within "
                f"{self._start_s:.0f} s goes at once"
            )
        decision = self._arranged(observation, known, wanted, said)
        rate, demand = now.requests_per_s, observation.demand
        if demand is None:
            return decision
        advice = advise(
            demand=demand,
            attainment=self._lately.fold(attainment),
            slo=targets.slo,
            attainment_frac=targets.attainment_frac,
            work_workers=rate / soon.prefill_rate() + rate / soon.decode_rate(),
            workers=sum(pool.ready_count for pool in observation.pools),
        )
        return replace(decision, advice=advice)

    def _compare(self, observation: Observation, present: Sizing, known: Worths) -> None:
        """Hold what the model says of the workers there are against what was seen."""
        demand, attainment = observation.demand, observation.attainment
        if demand is None or attainment.request_count <= 0:
            return
        ready = {Phase.PREFILL: 0.0, Phase.DECODE: 0.0}
        for pool in observation.pools:
            ready[pool.phase] += pool.ready_count * known.of(pool.phase, pool.kind)
        self._model.fold(
            observation.at_s,
            said_frac=present.late_of(ready[Phase.PREFILL], ready[Phase.DECODE]),
            seen_frac=min(1.0, (1.0 - attainment.ttft_frac) + (1.0 - attainment.tpot_frac)),
            requests_per_s=demand.requests_per_s,
        )

    def _needs(self, sizing: Sizing, allowed: float, hint: Needs) -> Needs:
        least = min(1, self._settings.limits.prefill.workers_min) if self._settings.spills else 1
        return sizing.needs(allowed_late_frac=allowed, prefill_min=least, hint=hint)

    def _clearing(self, sizing: Sizing, backlog: Backlog, needs: Needs) -> float:
        """Prefill workers beyond the flow that clear, within a look, what would wait beyond the target."""
        excess_s = sizing.prefill_work_s(backlog.waiting_tokens) - needs.prefill * sizing.slo.ttft_s
        return max(0.0, excess_s / self._settings.look_s)

    def _show_s(self, load: ExpectedLoad, now: Forecast, allowed: float) -> float:
        """Say how long it takes until it can be seen what a turn did.

        Those who turned finish what they have; requests that begin then end a life later, and are seen at the
        next look; and a share of late ones as small as that allowed shows in no fewer than its inverse. Never
        longer than a start, which brings a worker of either role without any turn.
        """
        targets = self._settings.targets
        life_s = load.output_tokens * targets.tpot_s
        counted_s = 1.0 / max(1e-9, allowed * now.requests_per_s)
        return min(self._start_s, targets.ttft_s + 2.0 * life_s + counted_s) + self._settings.look_s

    def _worths(self, engines: dict[str, Engine], load: ExpectedLoad) -> Worths:
        if len(engines) == 1:
            return plain_worths(self._settings.kinds)
        slo, rates = self._settings.targets.slo, {}
        for name, engine in engines.items():
            sizing = Sizing(engine, load, slo, spills=self._settings.spills)
            rates[name] = (sizing.prefill_rate(), sizing.decode_rate())
        return worths(self._settings.kinds, rates)

    def _foreseen(self, soon: Sizing, allowed: float) -> Needs | None:
        """Size for the most that comes while a start takes; None where no season tells."""
        most = self._forecaster.most_within(LATER)
        if most is None:
            return None
        needs = self._needs(soon.at_rate(most.requests_per_s, most.spread), allowed, self._hints[BETWEEN])
        self._hints[BETWEEN] = needs
        return needs

    def _keep(self, at_s: float, now: Needs, later: Needs, between: Needs | None) -> tuple[int, int, int]:
        """Keep what was needed for as long as a start takes, or, where that is foreseen, what will be."""
        keep_s, keep_max_s = (
            self._start_s * times for times in (self._budget.overdrawn, self._settings.budget_factor_max)
        )
        needed = [now, later]
        if between is not None:
            needed.append(between)
            keep_s = 0.0
        return self._kept.fold(at_s, needed, keep_s=keep_s, keep_max_s=keep_max_s)

    def _may_stop(self, at_s: float) -> bool:
        """Whether enough is known to give anything back: as much as a start takes was looked at."""
        known_s = at_s - (at_s if self._since_s is None else self._since_s)
        return known_s >= self._start_s and at_s - self._acted_s >= self._settings.limits.cooldown_s

    def _arranged(self, observation: Observation, known: Worths, wanted: Wanted, said: list[str]) -> Decision:
        found: Arrangement = Arranger(
            self._settings, known, observation.pools, at_s=observation.at_s, roles=self._roles
        ).arrange(wanted)
        if found.started_count or found.stopped_count:
            self._acted_s = observation.at_s
        held = [f"{p.phase.value} of kind {p.kind} is held by hand" for p in observation.pools if p.is_held]
        return Decision(
            orders=found.orders,
            flips=found.flips,
            reasons=(headline(observation.pools, found), *said, *found.said, *held),
            look_s=self._settings.look_s,
        )
