"""Tells a run so that a person can follow it.

Comes in: a report. Goes out: text: the cluster, what was broken, and the events of the requests that
matter, in order. Invariant: nothing is told that is not in the report.
"""

import re
from collections.abc import Iterator

from services.simulation.run import Report
from services.simulation.transcript import Event

LINE_MAX = 220
FRAMES = re.compile(r"^frame ")


def tell(report: Report, *, requests: frozenset[str] | None = None) -> str:
    """Tell a run.

    Args:
        report: of the run.
        requests: whose events are told; None takes those that a violation names, or all if none is named.
    """
    names = _accused(report) if requests is None else requests
    return "\n".join([*_opening(report), "", *_events(report, names), "", *_verdict(report)])


def _accused(report: Report) -> frozenset[str]:
    text = " ".join(violation.what for violation in report.violations)
    scenario = report.scenario
    arrivals = (*scenario.arrivals, *scenario.calm_arrivals)
    return frozenset(a.name for a in arrivals if re.search(rf"\b{a.name}\b", text))


def _opening(report: Report) -> Iterator[str]:
    scenario = report.scenario
    yield f"seed {scenario.seed}, trace {report.digest}"
    for name, phases in sorted(scenario.workers.items()):
        spared = ", touched by no fault" if name in scenario.spared else ""
        yield f"  {name}: {' and '.join(phases)}{spared}"
    yield (
        f"  {scenario.gateway_count} gateways; {scenario.engine.kv_blocks} KV blocks, lease "
        f"{scenario.engine.lease_s:g} s, at most {scenario.engine.sequences_max} sequences per worker"
    )
    yield f"  faults until {scenario.safety_s:.1f} s:"
    for fault in scenario.faults:
        yield f"    {fault}"


def _events(report: Report, names: frozenset[str]) -> Iterator[str]:
    frames = 0
    for event in report.events:
        if event.requests and names and not names.intersection(event.requests):
            continue
        if _is_plain_frame(event):
            frames += 1
            continue
        if frames:
            yield f"{'':14}… {frames} frames of tokens"
            frames = 0
        yield event.line()[:LINE_MAX]
    if frames:
        yield f"{'':14}… {frames} frames of tokens"


def _is_plain_frame(event: Event) -> bool:
    """Whether a frame only carries tokens: no end, no error."""
    return FRAMES.match(event.what) is not None and not re.search(r" (stop|length|aborted|error)", event.what)


def _verdict(report: Report) -> Iterator[str]:
    if not report.violations:
        yield "every promise was kept"
    for violation in report.violations:
        yield f"BROKEN {violation}"
