"""Runs one scenario on a virtual clock and judges it.

Comes in: a scenario. Goes out: a report: what was seen, what was wrong, and the trace's digest.
Invariant: a function of the scenario. Not here: many of them (`services.simulation.campaign`).
"""

from dataclasses import dataclass

from services.runtime.clock import DeadlockError, run_virtual
from services.simulation.invariants import Violation, judge
from services.simulation.observation import Observation
from services.simulation.scenario import Scenario
from services.simulation.transcript import Event, Trace
from services.simulation.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of one scenario."""

    scenario: Scenario
    violations: tuple[Violation, ...]
    digest: str
    """Of the whole trace: equal for equal runs."""
    events: tuple[Event, ...]
    seen: Observation | None
    """None when the run itself broke off."""
    virtual_s: float


def run(scenario: Scenario) -> Report:
    """Play a scenario; never raises for what the cluster does."""
    trace = Trace()
    ended_s = [0.0]

    async def main() -> Observation:
        world = World(scenario, trace)
        try:
            return await world.run()
        finally:
            ended_s[0] = trace.last_s

    seen: Observation | None = None
    try:
        seen = run_virtual(main())
        violations = judge(seen)
    except DeadlockError as error:
        violations = (Violation("nothing_deadlocks", str(error)),)
    return Report(
        scenario=scenario,
        violations=violations,
        digest=trace.digest(),
        events=trace.events(),
        seen=seen,
        virtual_s=ended_s[0],
    )
