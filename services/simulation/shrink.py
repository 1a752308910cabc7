"""Makes a failing scenario small: fewer faults, fewer clients, the same broken promise.

Comes in: a scenario that breaks an invariant. Goes out: a smaller one that breaks the same one.
Invariant: bounded runs; the result fails as the original did. Source of the method: delta debugging
(Zeller 1999), one part at a time.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from services.simulation.run import Report, run
from services.simulation.scenario import Scenario

RUNS_MAX = 300


def shrink(failed: Report) -> Report:
    """Leave out parts of a failing scenario as long as it fails in the same way."""
    wanted = failed.violations[0].invariant
    best = failed
    runs = 0
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(best.scenario):
            runs += 1
            if runs > RUNS_MAX:
                return best
            report = run(smaller)
            if any(violation.invariant == wanted for violation in report.violations):
                best, changed = report, True
                break
    return best


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    """Scenarios with one part less; large parts first."""
    faults, arrivals = scenario.faults, scenario.arrivals
    if len(arrivals) > 3:
        half = len(arrivals) // 2
        yield replace(scenario, arrivals=arrivals[:half])
        yield replace(scenario, arrivals=arrivals[half:])
    for at in range(len(faults)):
        yield replace(scenario, faults=faults[:at] + faults[at + 1 :])
    for at in range(len(arrivals)):
        yield replace(scenario, arrivals=arrivals[:at] + arrivals[at + 1 :])
    for at in range(len(scenario.calm_arrivals)):
        calm = scenario.calm_arrivals
        yield replace(scenario, calm_arrivals=calm[:at] + calm[at + 1 :])
