"""One look after the other: observe, decide, carry out, tell.

Comes in: an observer, a target, a planner, a clock. Goes out: a journal entry per look. Invariant: a look
that fails changes nothing and does not end the loop; the planner may be killed between any two lines. Not
here: settings and signals (`process`), decisions (`planner`).
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from planner.decision import Decision, Scaler
from planner.observation import Observation
from planner.observers.port import ObservationFailed, Observer
from planner.targets.port import Outcome, Target, TargetUnavailable
from services.domain.worker import Phase
from services.runtime.clock import Clock
from services.runtime.metrics import Meters

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One look, as it is kept.

    Attributes:
        observation: what was seen.
        decision: what was decided.
        outcome: what became of it.
        result: changed, unchanged, left (nothing that was wanted could be done) or failed.
    """

    observation: Observation
    decision: Decision
    outcome: Outcome
    result: str


class Loop:
    """Looks, decides, carries out."""

    def __init__(
        self,
        scaler: Scaler,
        observer: Observer,
        target: Target,
        *,
        clock: Clock,
        meters: Meters,
        blind_look_s: float,
    ) -> None:
        """Tie everything together.

        Args:
            scaler: decides.
            observer: sees demand.
            target: has the pools.
            clock: of observations.
            meters: of this process.
            blind_look_s: time to the next look after one that saw nothing.
        """
        self._scaler = scaler
        self._observer = observer
        self._target = target
        self._clock = clock
        self._meters = meters
        self._listeners: list[Callable[[Entry], None]] = []
        self._blind_look_s = blind_look_s

    def on_look(self, listener: Callable[[Entry], None]) -> None:
        """Tell of every look that saw something; a listener must not block for long or raise."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            look_s = await self.look()
            await asyncio.sleep(look_s)

    async def look(self) -> float:
        """Look once; returns the time to the next look, s."""
        try:
            sight = await self._observer.look()
            pools = await self._target.pools()
        except (ObservationFailed, TargetUnavailable) as error:
            log.warning("nothing is changed, since nothing can be seen: %s", error)
            self._meters.count("baton_planner_decisions_total", outcome="blind")
            return self._blind_look_s
        observation = Observation(
            at_s=self._clock.now_s(),
            age_s=sight.age_s,
            demand=sight.demand,
            backlog=sight.backlog,
            pools=pools,
            attainment=sight.attainment,
        )
        decision = self._scaler.decide(observation)
        is_change = _is_change(observation, decision)
        outcome, result = Outcome(), "unchanged"
        try:
            if is_change:
                outcome = await self._target.carry_out(decision)
                result = "changed" if outcome.done else "left"
        except TargetUnavailable as error:
            outcome, result = Outcome(left=(str(error),)), "failed"
        self._tell(Entry(observation=observation, decision=decision, outcome=outcome, result=result))
        return decision.look_s

    def _tell(self, entry: Entry) -> None:
        """Log, count and keep."""
        decision, meters = entry.decision, self._meters
        level = logging.INFO if entry.result == "unchanged" else logging.WARNING
        log.log(level, "%s", "; ".join((*decision.reasons, *entry.outcome.done, *entry.outcome.left)))
        meters.count("baton_planner_decisions_total", outcome=entry.result)
        meters.set("baton_planner_observation_age_seconds", entry.observation.age_s)
        for phase in Phase:
            wanted = sum(order.worker_count for order in decision.orders if order.phase is phase)
            meters.set("baton_planner_workers_wanted", wanted, phase=phase.value)
        if entry.result == "changed":
            before = sum(pool.ordered_count for pool in entry.observation.pools)
            more = sum(order.worker_count for order in decision.orders) - before
            if more:
                meters.count(
                    "baton_planner_scalings_total", abs(more), direction="up" if more > 0 else "down"
                )
            meters.count("baton_planner_flips_total", sum(flip.worker_count for flip in decision.flips))
        for listener in self._listeners:
            listener(entry)


def _is_change(observation: Observation, decision: Decision) -> bool:
    counts = {(pool.phase, pool.kind): pool.ordered_count for pool in observation.pools}
    return bool(decision.flips) or any(
        counts.get((order.phase, order.kind), 0) != order.worker_count for order in decision.orders
    )
