"""The autoscalers of others with the values that each may be tuned to.

Comes in: nothing. Goes out: for each name, makers of scalers. Invariant: a maker makes a fresh scaler for a
load of which it is told nothing, but for the static peak's.
Not here: which values are chosen for which load (the benchmark: always by the other loads).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

from planner.decision import Scaler
from planner.proof.baselines.dynamo_throughput import DynamoThroughput
from planner.proof.baselines.queue_length import QueueLength
from planner.proof.baselines.static_peak import StaticPeak
from planner.proof.baselines.token_velocity import TokenVelocity
from planner.proof.baselines.utilisation_hpa import UtilisationHpa
from planner.proof.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """One autoscaler with its values."""

    values: str
    make: Callable[[Work], Scaler]


def _static(headroom: float) -> Tuned:
    return Tuned(values=f"head-room {headroom:g}", make=lambda work: StaticPeak(work, headroom=headroom))


def _hpa(target: float) -> Tuned:
    return Tuned(
        values=f"target {target:g}",
        make=lambda work: UtilisationHpa(work.engine, work.slo, target_frac=target),
    )


def _queue(prompts: float, share: float) -> Tuned:
    return Tuned(
        values=f"{prompts:g} prompts, {share:g} sequences",
        make=lambda work: QueueLength(work.engine, work.slo, prompts=prompts, sequences=share),
    )


def _dynamo(interval_s: float, headroom: float, follows_trend: bool) -> Tuned:
    return Tuned(
        values=f"{interval_s:g} s, head-room {headroom:g}, {'trend' if follows_trend else 'last value'}",
        make=lambda work: DynamoThroughput(
            work.engine, work.slo, interval_s=interval_s, headroom=headroom, follows_trend=follows_trend
        ),
    )


def _velocity(headroom: float, down_s: float) -> Tuned:
    return Tuned(
        values=f"head-room {headroom:g}, down after {down_s:g} s",
        make=lambda work: TokenVelocity(work.engine, work.slo, headroom=headroom, down_s=down_s),
    )


BASELINES: Mapping[str, tuple[Tuned, ...]] = {
    "static peak": tuple(map(_static, (0.9, 1.0, 1.15, 1.4))),
    "HPA on utilisation": tuple(map(_hpa, (0.35, 0.45, 0.55, 0.65, 0.8))),
    "KEDA on queue length": tuple(_queue(*pair) for pair in product((0.35, 0.7), (12.0, 30.0, 90.0))),
    "Dynamo, throughput": (
        *(_dynamo(60.0, headroom, False) for headroom in (1.0, 1.2, 1.5, 1.9)),
        _dynamo(60.0, 1.2, True),
        _dynamo(180.0, 1.5, False),
    ),
    "token velocity": tuple(_velocity(*pair) for pair in product((1.15, 1.35, 1.7), (60.0, 300.0))),
}
"""By name; the values in no order."""

PLAIN: Mapping[str, str] = {
    "static peak": "head-room 1.15",
    "HPA on utilisation": "target 0.55",
    "KEDA on queue length": "0.7 prompts, 30 sequences",
    "Dynamo, throughput": "60 s, head-room 1.5, last value",
    "token velocity": "head-room 1.35, down after 300 s",
}
"""Values where nothing was tuned."""
