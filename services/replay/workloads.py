"""Traces that are made: other shapes of traffic than the recorded ones.

Comes in: a seed. Goes out: a trace. Invariant: the same arguments give the same trace on any machine.
Not here: files (`trace_files`), changes to a trace (`retiming`).

At four times their speed most are near what eight workers of the peer's mock engine can carry.
"""

import math
from collections.abc import Callable
from random import Random

from services.domain.errors import ConfigurationInvalid
from services.replay.retiming import first
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


_Lengths = tuple[float, float, int]
"""Median, spread of the logarithm, most; in tokens."""


def _alike(name: str, seed: int, count: int, per_s: float, *, prompts: _Lengths, outputs: _Lengths) -> Trace:
    """Make requests that come without memory, share nothing, and have lengths of one kind."""
    maker = _Maker(seed)
    return ordered(
        name,
        [
            maker.request(at_s, maker.tokens(*prompts), maker.tokens(*outputs))
            for at_s in maker.arrivals_s(count, per_s)
        ],
    )


def no_reuse(*, seed: int = 0, count: int = REQUESTS_COUNT) -> Trace:
    """Make prompts that share nothing."""
    return _alike("no-reuse", seed, count, 8.0, prompts=(3_000, 1.0, 60_000), outputs=(200, 0.8, 2_000))


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
    return _alike("long-outputs", seed, count, 10.0, prompts=(250, 0.7, 4_000), outputs=(1_200, 0.6, 8_000))


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


def clumps(*, seed: int = 0, count: int = REQUESTS_COUNT) -> Trace:
    """Make arrivals that come in clumps of six on average, at any moment."""
    maker = _Maker(seed)
    at_s, requests = 0.0, []
    for _ in range(count):
        at_s += maker.rng.gammavariate(1 / 6, 6 / 11.0)
        requests.append(maker.request(at_s, maker.tokens(2_500, 1.0, 50_000), maker.tokens(250, 0.8, 2_000)))
    return ordered("clumps", requests)


def documents(*, seed: int = 0, count: int = REQUESTS_COUNT) -> Trace:
    """Make long prompts with short answers."""
    return _alike("documents", seed, count, 2.0, prompts=(18_000, 0.6, 100_000), outputs=(250, 0.7, 2_000))


def few_long(*, seed: int = 0, count: int = REQUESTS_COUNT) -> Trace:
    """Make short prompts, and one in ten that is fifty times as long."""
    maker = _Maker(seed)
    requests = []
    for at_s in maker.arrivals_s(count, 13.0):
        if maker.rng.random() < 0.1:
            prompt_tokens, output_tokens = maker.tokens(28_000, 0.4, 90_000), maker.tokens(300, 0.6, 2_000)
        else:
            prompt_tokens, output_tokens = maker.tokens(500, 0.8, 6_000), maker.tokens(200, 0.7, 2_000)
        requests.append(maker.request(at_s, prompt_tokens, output_tokens))
    return ordered("few-long", requests)


def reasoning(*, seed: int = 0, count: int = REQUESTS_COUNT) -> Trace:
    """Make short prompts with outputs of any length, some very long."""
    return _alike("reasoning", seed, count, 9.0, prompts=(800, 0.9, 16_000), outputs=(1_200, 1.0, 10_000))


def sessions(*, seed: int = 0, count: int = REQUESTS_COUNT) -> Trace:
    """Make chats of up to ten turns, each with all that was said before."""
    maker = _Maker(seed)
    requests: list[TracedRequest] = []
    begin_s, number = 0.0, 0
    while len(requests) < 1.3 * count:
        begin_s, number = begin_s + maker.rng.expovariate(7.5), number + 1
        at_s, context_tokens = begin_s, maker.tokens(1_500, 0.8, 10_000)
        for _turn in range(1 + min(9, int(maker.rng.expovariate(1 / 4)))):
            output_tokens = maker.tokens(250, 0.7, 2_000)
            said = (f"chat {number}", context_tokens)
            requests.append(maker.request(at_s, context_tokens, output_tokens, said))
            context_tokens += output_tokens + maker.tokens(300, 1.0, 5_000)
            at_s += 10.0 + maker.rng.expovariate(1 / 25)
    return first(ordered("sessions", requests), count)


def shifts(*, seed: int = 0, count: int = REQUESTS_COUNT) -> Trace:
    """Make long prompts with short outputs and the opposite, in turns of a minute."""
    maker = _Maker(seed)
    requests = []
    for at_s in maker.arrivals_s(count, 8.0):
        if at_s % 120.0 >= 60.0:
            prompt_tokens, output_tokens = maker.tokens(6_000, 0.8, 60_000), maker.tokens(80, 0.7, 1_000)
        else:
            prompt_tokens, output_tokens = maker.tokens(500, 0.8, 6_000), maker.tokens(700, 0.7, 4_000)
        requests.append(maker.request(at_s, prompt_tokens, output_tokens))
    return ordered("shifts", requests)


def short_chats(*, seed: int = 0, count: int = REQUESTS_COUNT) -> Trace:
    """Make many short questions with short answers."""
    return _alike("short-chats", seed, count, 42.0, prompts=(900, 0.8, 12_000), outputs=(170, 0.7, 1_500))


def tools(*, seed: int = 0, count: int = REQUESTS_COUNT) -> Trace:
    """Make prompts of which two in three begin with one of twelve sets of tools; the others share nothing."""
    maker = _Maker(seed)
    sets = [f"tools {rank}" for rank in range(12)]
    lengths = [maker.tokens(5_000, 0.6, 20_000) for _ in sets]
    weights = [(rank + 1) ** -0.8 for rank in range(len(sets))]
    requests = []
    for at_s in maker.arrivals_s(count, 9.0):
        if maker.rng.random() < 0.65:
            (one,) = maker.rng.choices(range(len(sets)), weights)
            prompt_tokens = lengths[one] + maker.tokens(1_500, 1.0, 30_000)
            prefix = (sets[one], lengths[one])
            requests.append(maker.request(at_s, prompt_tokens, maker.tokens(120, 0.9, 2_000), prefix))
        else:
            prompt_tokens = maker.tokens(5_000, 1.1, 80_000)
            requests.append(maker.request(at_s, prompt_tokens, maker.tokens(150, 0.9, 2_000)))
    return ordered("tools", requests)


WORKLOADS: dict[str, Callable[..., Trace]] = {
    "bursts": bursts,
    "clumps": clumps,
    "documents": documents,
    "few-long": few_long,
    "long-outputs": long_outputs,
    "no-reuse": no_reuse,
    "reasoning": reasoning,
    "sessions": sessions,
    "shared-prefix": shared_prefix,
    "shifts": shifts,
    "short-chats": short_chats,
    "tools": tools,
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
