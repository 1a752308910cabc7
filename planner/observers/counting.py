"""From counters to demand and attainment.

Comes in: how much each of Baton's counters grew within a window, wherever that was read. Goes out: `Demand`
and `Attainment`. Invariant: what was not counted is not known: no demand is made of no requests accepted and
none ended where some are open. Not here: reading (`gateways`, `prometheus`, `exposition`).

Requests are counted when they are accepted; their lengths and times when they end, a life later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from planner.observation import Attainment, Demand
from services.domain.slo import Slo

Buckets = Mapping[float, float]
"""Observations up to each bound, cumulative, as Prometheus has them; the last bound is infinity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How much counters grew within a window.

    Attributes:
        window_s: its length.
        accepted: requests let in.
        ended: requests ended.
        prompt_tokens: of those that ended.
        cached_tokens: of these, not computed.
        output_tokens: of those that ended.
        prompts: their lengths in tokens.
        ttft: their times to the first token, s.
        tpot: their times per token, s.
        ttft_alone: times to the first token that idle workers would have given them, s; empty: not counted.
        tpot_alone: times per token, likewise.
    """

    window_s: float
    accepted: float
    ended: float
    prompt_tokens: float
    cached_tokens: float
    output_tokens: float
    prompts: Buckets
    ttft: Buckets
    tpot: Buckets
    ttft_alone: Buckets = field(default_factory=dict)
    tpot_alone: Buckets = field(default_factory=dict)


def demand(growth: Growth) -> Demand | None:
    """Say what was asked for; None where no request ended, so that nothing is known of lengths.

    No request at all is known, too: a demand of 0.
    """
    if growth.accepted <= 0.0 and growth.ended <= 0.0:
        return Demand(
            window_s=growth.window_s,
            requests_per_s=0.0,
            prompt_tokens=0.0,
            uncached_tokens=0.0,
            uncached_square_tokens=0.0,
            output_tokens=0.0,
        )
    if growth.ended <= 0.0 or growth.output_tokens <= 0.0:
        return None
    uncached = max(0.0, growth.prompt_tokens - growth.cached_tokens) / growth.ended
    return Demand(
        window_s=growth.window_s,
        requests_per_s=growth.accepted / growth.window_s,
        prompt_tokens=growth.prompt_tokens / growth.ended,
        uncached_tokens=uncached,
        uncached_square_tokens=square_over_mean_square(growth.prompts) * uncached * uncached,
        output_tokens=growth.output_tokens / growth.ended,
    )


def attainment(growth: Growth, slo: Slo, *, prefill_pace: float, decode_pace: float) -> Attainment:
    """Say which shares of the requests that ended met their targets, of those that an idle worker lets."""
    ttft_possible_frac = share_within(growth.ttft_alone, slo.ttft_s)
    tpot_possible_frac = share_within(growth.tpot_alone, slo.tpot_s)
    return Attainment(
        request_count=round(growth.ended),
        ttft_frac=_of(share_within(growth.ttft, slo.ttft_s), ttft_possible_frac),
        tpot_frac=_of(share_within(growth.tpot, slo.tpot_s), tpot_possible_frac),
        ttft_possible_frac=ttft_possible_frac,
        tpot_possible_frac=tpot_possible_frac,
        prefill_pace=prefill_pace,
        decode_pace=decode_pace,
    )


def _of(met_frac: float, possible_frac: float) -> float:
    """Share that was met of what was possible; 1 of nothing."""
    return min(1.0, met_frac / possible_frac) if possible_frac > 0.0 else 1.0


def share_within(buckets: Buckets, bound: float) -> float:
    """Share of observations up to a bound, by straight lines within buckets; 1 where there are none."""
    edges = sorted(buckets)
    if not edges or buckets[edges[-1]] <= 0.0:
        return 1.0
    below_edge, below = 0.0, 0.0
    for edge in edges:
        if edge >= bound:
            part = 0.0 if edge == float("inf") else (bound - below_edge) / (edge - below_edge)
            return min(1.0, (below + part * (buckets[edge] - below)) / buckets[edges[-1]])
        below_edge, below = edge, buckets[edge]
    return 1.0


def square_over_mean_square(buckets: Buckets) -> float:
    """Mean square of observations over their squared mean, each in the middle of its bucket; at least 1."""
    edges, below_edge, below = sorted(buckets), 0.0, 0.0
    count = first = second = 0.0
    for edge in edges:
        inside = buckets[edge] - below
        middle = below_edge * 1.5 if edge == float("inf") else (below_edge + edge) / 2.0
        count, first, second = count + inside, first + inside * middle, second + inside * middle * middle
        below_edge, below = (edge, buckets[edge]) if edge != float("inf") else (below_edge, below)
    return max(1.0, second * count / (first * first)) if first > 1e-9 else 1.0


def together(growths: Sequence[Growth]) -> Growth | None:
    """Add up what several sources counted; None of none.

    Rates add up, not counts: a source that missed a look counted for twice as long as the others.
    """
    if not growths:
        return None
    window_s = min(growth.window_s for growth in growths)
    scaled = [(growth, window_s / growth.window_s) for growth in growths]
    return Growth(
        window_s=window_s,
        accepted=sum(growth.accepted * share for growth, share in scaled),
        ended=sum(growth.ended * share for growth, share in scaled),
        prompt_tokens=sum(growth.prompt_tokens * share for growth, share in scaled),
        cached_tokens=sum(growth.cached_tokens * share for growth, share in scaled),
        output_tokens=sum(growth.output_tokens * share for growth, share in scaled),
        prompts=_added([(growth.prompts, share) for growth, share in scaled]),
        ttft=_added([(growth.ttft, share) for growth, share in scaled]),
        tpot=_added([(growth.tpot, share) for growth, share in scaled]),
        ttft_alone=_added([(growth.ttft_alone, share) for growth, share in scaled]),
        tpot_alone=_added([(growth.tpot_alone, share) for growth, share in scaled]),
    )


def _added(scaled: Sequence[tuple[Buckets, float]]) -> Buckets:
    edges = sorted({edge for buckets, _share in scaled for edge in buckets})
    return {edge: sum(buckets.get(edge, 0.0) * share for buckets, share in scaled) for edge in edges}
