"""Traces that are made: other shapes of traffic than the recorded ones, and changes to any trace.

Comes in: a seed, or a trace. Goes out: a trace. Invariant: the same arguments give the same trace on any
machine. Not here: files (`trace_files`).

At four times their speed most are near what eight workers of the peer's mock engine can carry.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random

from services.domain.errors import ConfigurationInvalid
from services.replay.traces import TRACE_BLOCK_TOKENS, PrefixNames, Trace, TracedRequest, ordered

REQUESTS_COUNT = 4_000
"""Requests of a made trace, unless asked otherwise."""


class _Maker:
    """Draws requests."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)  # noqa: S311  # a workload drawn again must be the same
        self._names = PrefixNames()

    def tokens(self, median: float, sigma: float, most: int) -> int:
        """Draw a length, lognormal, in [1, most]."""
        return min(most, max(1, round(median * math.exp(self.rng.gauss(0.0, sigma)))))

    def request(
        self, arrival_s: float, prompt_tokens: int, output_tokens: int, prefix: tuple[str, int] = ("", 0)
    ) -> TracedRequest:
        """Make a request whose leading tokens (a name and how many) are shared with all of that name."""
        name, shared_tokens = prefix
        shared = min(shared_tokens, prompt_tokens) // TRACE_BLOCK_TOKENS
        return TracedRequest(
            arrival_s=arrival_s,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            prefix_ids=self._names.chain([name] * shared, -(-prompt_tokens // TRACE_BLOCK_TOKENS)),
        )

    def arrivals_s(self, count: int, per_s: float) -> list[float]:
        """Draw moments without memory."""
        at_s, moments = 0.0, []
        for _ in range(count):
            at_s += self.rng.expovariate(per_s)
            moments.append(at_s)
        return moments


def no_reuse(*, seed: int = 0, count: int = REQUESTS_COUNT) -> Trace:
    """Make prompts that share nothing."""
    maker = _Maker(seed)
    return ordered(
        "no-reuse",
        [
            maker.request(at_s, maker.tokens(3_000, 1.0, 60_000), maker.tokens(200, 0.8, 2_000))
            for at_s in maker.arrivals_s(count, 8.0)
        ],
    )


def shared_prefix(*, seed: int = 0, count: int = REQUESTS_COUNT) -> Trace:
    """Make prompts of which most is one of a few long beginnings, some far more usual than others."""
    maker = _Maker(seed)
    kinds = [f"kind {rank}" for rank in range(40)]
    lengths = [maker.tokens(9_000, 0.5, 40_000) for _ in kinds]
    weights = [1 / (rank + 1) for rank in range(len(kinds))]
    requests = []
    for at_s in maker.arrivals_s(count, 14.0):
        (kind,) = maker.rng.choices(range(len(kinds)), weights)
        prompt_tokens = lengths[kind] + maker.tokens(400, 0.8, 8_000)
        output_tokens = maker.tokens(150, 0.7, 1_500)
        requests.append(maker.request(at_s, prompt_tokens, output_tokens, (kinds[kind], lengths[kind])))
    return ordered("shared-prefix", requests)


def long_outputs(*, seed: int = 0, count: int = REQUESTS_COUNT) -> Trace:
    """Make short prompts with long outputs."""
    maker = _Maker(seed)
    return ordered(
        "long-outputs",
        [
            maker.request(at_s, maker.tokens(250, 0.7, 4_000), maker.tokens(1_200, 0.6, 8_000))
            for at_s in maker.arrivals_s(count, 10.0)
        ],
    )


def bursts(*, seed: int = 0, count: int = REQUESTS_COUNT) -> Trace:
    """Make a calm stream on which, once a minute, eight times as much arrives for five seconds."""
    maker = _Maker(seed)
    requests: list[TracedRequest] = []
    at_s = 0.0
    while len(requests) < count:
        at_s += maker.rng.expovariate(36.0)
        in_burst = at_s % 60.0 >= 55.0
        prompt_tokens, output_tokens = maker.tokens(3_000, 1.0, 60_000), maker.tokens(200, 0.8, 2_000)
        if in_burst or maker.rng.random() < 1 / 8:
            requests.append(maker.request(at_s, prompt_tokens, output_tokens))
    return ordered("bursts", requests)


WORKLOADS: dict[str, Callable[..., Trace]] = {
    "bursts": bursts,
    "long-outputs": long_outputs,
    "no-reuse": no_reuse,
    "shared-prefix": shared_prefix,
}
"""Made traces, by name."""


def make_workload(name: str, *, seed: int, count: int) -> Trace:
    """Make a trace by name.

    Args:
        name: of the workload.
        seed: another seed is another draw of the same shape.
        count: requests, >= 1.

    Raises:
        ConfigurationInvalid: if there is none of that name.
    """
    if name not in WORKLOADS:
        known = ", ".join(sorted(WORKLOADS))
        raise ConfigurationInvalid(
            key="workload", message=f"workload: none is named {name!r}; known are {known}"
        )
    return WORKLOADS[name](seed=seed, count=count)


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
