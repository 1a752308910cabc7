"""Changes to any trace: faster, spread over ticks, shorter.

Comes in: a trace. Goes out: another one. Invariant: the requests stay what they are, in their order.
Not here: traces that are made (`workloads`), files (`trace_files`).
"""

import math
from dataclasses import replace

from services.replay.traces import Trace


def speed_up(trace: Trace, factor: float) -> Trace:
    """Let everything arrive `factor` times as fast, > 0."""
    return _moved(trace, [request.arrival_s / factor for request in trace.requests])


def spread(trace: Trace, tick_s: float) -> Trace:
    """Spread the requests of each tick of `tick_s`, > 0, evenly over it, in their order."""
    moments: list[float] = []
    start = 0
    while start < len(trace.requests):
        tick = math.floor(trace.requests[start].arrival_s / tick_s)
        stop = start
        while stop < len(trace.requests) and math.floor(trace.requests[stop].arrival_s / tick_s) == tick:
            stop += 1
        moments += [(tick + place / (stop - start)) * tick_s for place in range(stop - start)]
        start = stop
    return _moved(trace, moments)


def first(trace: Trace, count: int) -> Trace:
    """Keep the first requests only."""
    return replace(trace, requests=trace.requests[:count])


def _moved(trace: Trace, moments_s: list[float]) -> Trace:
    requests = tuple(
        replace(request, arrival_s=at_s) for request, at_s in zip(trace.requests, moments_s, strict=True)
    )
    return replace(trace, requests=requests)
