"""Numbers of one replay: TTFT, TPOT, ITL, goodput, hits, utilisation, the queue over time.

Comes in: a cluster that replayed its trace. Goes out: frozen measures, written as JSON as they are.
TTFT: arrival to first token shown. TPOT: (last - first) / (tokens - 1), per request. ITL: gaps between
neighbouring tokens, of all requests together. Percentiles interpolate linearly.
Invariant: a refused request is no good one and has no times. Not here: settings, tables (`report`).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.replay.cluster import Cluster

QUEUE_POINTS = 240
"""Points of the queue over time."""
CURVE_POINTS = 201
"""Points of a distribution's curve: from the least to the most, the same share of values between two."""

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A distribution."""

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerUse:
    """How busy one worker was, as shares of the replay's duration."""

    worker: int
    busy_frac: float
    prefill_frac: float
    """Time that prefill added to steps; part of `busy_frac`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePoint:
    """Most requests without a computed prompt within one of equal parts of the replay."""

    at_s: float
    """Begin of the part."""
    waiting_max_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Whole distributions, to be drawn: shape [CURVE_POINTS] each, empty without values."""

    ttft_ms: tuple[float, ...]
    tpot_ms: tuple[float, ...]
    itl_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What one replay gave."""

    requests: int
    completed_count: int
    refused_count: int
    """Too long for any worker, or turned away by the policy."""
    refused: dict[str, int]
    """Of these, how many for which reason."""
    goodput_count: int
    """Requests with TTFT and *mean* ITL within their targets."""
    goodput_p99_count: int
    """Requests with TTFT and the 99th percentile of their own gaps within the targets."""
    ttft_ms: Spread
    tpot_ms: Spread
    itl_ms: Spread
    itl_p99_ms: Spread
    """Of each request's own 99th percentile of gaps."""
    hit_frac: float
    """Prompt tokens that were cached where the prompt was computed, over all prompt tokens."""
    utilisation_frac: float
    """Mean over workers of their time in steps."""
    utilisation: tuple[WorkerUse, ...]
    curves: Curves
    moved_bytes: int
    preempted_count: int
    prompt_tokens: int
    output_tokens: int
    duration_s: float
    """First arrival to last token, simulated."""
    queue: tuple[QueuePoint, ...]


def measure(cluster: Cluster, *, ttft_slo_s: float, itl_slo_s: float) -> Measures:
    """Measure a finished replay.

    Args:
        cluster: has replayed its trace.
        ttft_slo_s: target of TTFT.
        itl_slo_s: target of gaps between tokens.
    """
    done = [record for record in cluster.records if record.ended_s is not None]
    step_ends_s = [worker.step_ends_s for worker in cluster.workers]
    ttfts, tpots, tails = np.empty(len(done)), np.zeros(len(done)), np.zeros(len(done))
    gaps: list[Times] = []
    for place, record in enumerate(done):
        times_s = record.token_times_s(step_ends_s)
        ttfts[place] = times_s[0] - record.arrival_s
        if len(times_s) > 1:
            own = np.diff(times_s)
            gaps.append(own)
            tpots[place] = (times_s[-1] - times_s[0]) / (len(times_s) - 1)
            tails[place] = _percentile(np.sort(own), 99)
    several = np.array([record.output_tokens > 1 for record in done], dtype=bool)
    is_quick = ttfts <= ttft_slo_s
    prompt_tokens = sum(record.prompt_tokens for record in done)
    duration_s = max((record.ended_s or 0.0 for record in done), default=0.0)
    uses = tuple(
        WorkerUse(
            worker=worker.index,
            busy_frac=worker.busy_s / duration_s if duration_s else 0.0,
            prefill_frac=worker.prefill_busy_s / duration_s if duration_s else 0.0,
        )
        for worker in cluster.workers
    )
    pooled = np.concatenate(gaps) if gaps else np.empty(0)
    return Measures(
        requests=len(cluster.records),
        completed_count=len(done),
        refused_count=cluster.refused_count,
        refused=dict(sorted(Counter(record.refused for record in cluster.records if record.refused).items())),
        goodput_count=int(np.count_nonzero(is_quick & (tpots <= itl_slo_s))),
        goodput_p99_count=int(np.count_nonzero(is_quick & (tails <= itl_slo_s))),
        ttft_ms=_spread_ms(ttfts),
        tpot_ms=_spread_ms(tpots[several]),
        itl_ms=_spread_ms(pooled),
        itl_p99_ms=_spread_ms(tails[several]),
        hit_frac=sum(record.cached_tokens for record in done) / prompt_tokens if prompt_tokens else 0.0,
        utilisation_frac=sum(use.busy_frac for use in uses) / len(uses),
        utilisation=uses,
        curves=Curves(ttft_ms=_curve_ms(ttfts), tpot_ms=_curve_ms(tpots[several]), itl_ms=_curve_ms(pooled)),
        moved_bytes=sum(record.moved_bytes for record in done),
        preempted_count=sum(worker.batch.preempted_count for worker in cluster.workers),
        prompt_tokens=prompt_tokens,
        output_tokens=sum(record.output_tokens for record in done),
        duration_s=duration_s,
        queue=_queue(cluster, duration_s),
    )


def _spread_ms(values_s: Times) -> Spread:
    if not len(values_s):
        return Spread(mean=0.0, p50=0.0, p95=0.0, p99=0.0)
    ordered = np.sort(values_s)
    at: Callable[[float], float] = lambda percent: _percentile(ordered, percent) * 1e3  # noqa: E731
    return Spread(mean=float(values_s.mean()) * 1e3, p50=at(50), p95=at(95), p99=at(99))


def _curve_ms(values_s: Times) -> tuple[float, ...]:
    if not len(values_s):
        return ()
    points = np.quantile(values_s, np.linspace(0.0, 1.0, CURVE_POINTS)) * 1e3
    return tuple(round(float(point), 4) for point in points)


def _percentile(ordered: Times, percent: float) -> float:
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (ordered[high] - ordered[low]) * (place - low))


def _queue(cluster: Cluster, duration_s: float) -> tuple[QueuePoint, ...]:
    if not cluster.journeys.queue_counts or not duration_s:
        return ()
    part_s = duration_s / QUEUE_POINTS
    most = [0] * QUEUE_POINTS
    before, waiting = 0, 0
    for at_s, count in zip(cluster.journeys.queue_times_s, cluster.journeys.queue_counts, strict=True):
        part = min(int(at_s / part_s), QUEUE_POINTS - 1)
        for passed in range(before, part + 1):  # nothing happened in these: what waited still waits
            most[passed] = max(most[passed], waiting)
        before, waiting = part, count
        most[part] = max(most[part], waiting)
    return tuple(QueuePoint(at_s=part * part_s, waiting_max_count=count) for part, count in enumerate(most))
