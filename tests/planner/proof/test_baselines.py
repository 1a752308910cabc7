"""The autoscalers of others follow their published rules."""

from dataclasses import replace

import pytest

from planner.observation import Backlog, Demand, Observation, PoolState
from planner.proof.baselines.dynamo_throughput import DynamoThroughput
from planner.proof.baselines.pace import HighestOfLate, pace
from planner.proof.baselines.tuning import BASELINES
from planner.proof.baselines.utilisation_hpa import UtilisationHpa
from planner.proof.bound import clairvoyant_bound
from planner.proof.outcome import outcome
from planner.proof.simulation import run_scaler
from planner.proof.table import table
from planner.proof.work import DEFAULT_ENGINE
from services.domain.worker import Phase
from tests.planner.proof.even_loads import CHAT, work_of

DEMAND = Demand(
    window_s=30.0,
    requests_per_s=60.0,
    prompt_tokens=1155.0,
    uncached_tokens=1155.0,
    uncached_square_tokens=2 * 1155.0**2,
    output_tokens=211.0,
)


def seen(at_s: float, *, prefill: int, decode: int, running: int = 0, rate: float = 60.0) -> Observation:
    """Observe two pools."""
    pools = ((Phase.PREFILL, prefill), (Phase.DECODE, decode))
    return Observation(
        at_s=at_s,
        age_s=0.0,
        demand=replace(DEMAND, requests_per_s=rate),
        backlog=Backlog(running_count=running),
        pools=tuple(PoolState(phase=phase, kind="default", ready_count=count) for phase, count in pools),
    )


def test_hpa_grows_by_the_ratio_and_shrinks_after_five_minutes() -> None:
    """Desired is current times measured over target, rounded up; the highest of 300 s keeps a pool up."""
    batch = pace(DEMAND, DEFAULT_ENGINE, CHAT).batch
    scaler = UtilisationHpa(DEFAULT_ENGINE, CHAT, target_frac=0.5)
    orders = {
        order.phase: order.worker_count
        for order in scaler.decide(seen(0.0, prefill=4, decode=2, running=int(1.6 * batch))).orders
    }
    assert orders[Phase.DECODE] == 4
    for at_s, expected in ((150.0, 4), (299.0, 4), (301.0, 1)):
        decided = scaler.decide(seen(at_s, prefill=4, decode=4, running=1))
        assert {o.phase: o.worker_count for o in decided.orders}[Phase.DECODE] == expected


def test_hpa_leaves_small_differences_alone() -> None:
    """Within a tenth of the target nothing is done."""
    batch = pace(DEMAND, DEFAULT_ENGINE, CHAT).batch
    scaler = UtilisationHpa(DEFAULT_ENGINE, CHAT, target_frac=0.5)
    decided = scaler.decide(seen(0.0, prefill=4, decode=10, running=int(0.53 * 10 * batch)))
    assert {o.phase: o.worker_count for o in decided.orders}[Phase.DECODE] == 10


def test_the_throughput_planner_divides_tokens_by_throughput() -> None:
    """Twice the rate needs twice the workers, up to rounding; a trend looks one interval ahead."""
    carried = pace(DEMAND, DEFAULT_ENGINE, CHAT)
    last = DynamoThroughput(DEFAULT_ENGINE, CHAT, interval_s=60.0, headroom=1.0, follows_trend=False)
    trend = DynamoThroughput(DEFAULT_ENGINE, CHAT, interval_s=60.0, headroom=1.0, follows_trend=True)
    for scaler in (last, trend):
        scaler.decide(seen(0.0, prefill=1, decode=1, rate=600.0))
    rates = []
    for scaler in (last, trend):
        orders = scaler.decide(seen(60.0, prefill=1, decode=1, rate=900.0)).orders
        rates.append(next(order.worker_count for order in orders if order.phase is Phase.PREFILL))
    assert rates == [-(-900 * carried.own_s // 1), -(-1200 * carried.own_s // 1)]


def test_the_highest_of_late_forgets() -> None:
    """Only recommendations within the window count."""
    kept = HighestOfLate(100.0)
    recommended = ((0, 5), (50, 2), (101, 3), (160, 1))
    assert [kept.fold(Phase.DECODE, count, at_s) for at_s, count in recommended] == [5, 5, 3, 3]


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_each_carries_a_load_that_swings(name: str) -> None:
    """With the largest head-room of its values, each serves nearly all of a slow swing, above the bound."""
    rates = [200.0 + (place % 120) * 2.0 for place in range(360)]
    work = work_of(rates)
    bound = clairvoyant_bound(work, startup_s=30.0)
    outcomes = []
    for tuned in BASELINES[name]:
        run = run_scaler(tuned.make(work), work, startup_s=30.0)
        outcomes.append(outcome(run, bound, scaler=name, values=tuned.values, startup_s=30.0))
    assert max(one.attained_frac for one in outcomes) > 0.97
    assert all(one.ratio > 0.9 for one in outcomes)
    assert all(one.values in table(outcomes) for one in outcomes)
