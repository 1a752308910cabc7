"""Prompts of one worker begin together where that is quicker for all, and prefixes are fetched meanwhile."""

from dataclasses import replace

from services.domain.spoiling import Decoding, LengthRecord
from services.replay.policies.baton import Baton, baton
from services.replay.policies.baton_offers import StallPrices, make_offer
from services.replay.policies.baton_seats import Given
from services.replay.policies.baton_steps import NextSteps
from services.replay.policies.options import PolicyOptions
from tests.replay.choosing import StillFleet, job
from tests.replay.test_policies_baton import busy


def bound(policy: Baton, now_s: float = 0.0) -> list[tuple[int, int]]:
    """Dispatch; list which jobs went to which worker."""
    return [(given.index, way.prefill) for given, way in policy.dispatch(now_s)]


def test_short_prompts_share_a_step() -> None:
    """Each would pay the fixed cost of a step by itself, and the second would wait for it besides."""
    policy = baton(StillFleet(1), PolicyOptions())
    for number in range(3):
        policy.arrive(job(number, tail_tokens=100), 0.0)
    assert sorted(bound(policy)) == [(0, 0), (1, 0), (2, 0)]


def test_prompts_that_do_not_fit_one_step_take_turns() -> None:
    """Together they would take as long, and the first would wait for the second."""
    fleet = StillFleet(1)
    policy = baton(fleet, PolicyOptions())
    most = fleet.timing.step_tokens_max
    policy.arrive(job(0, tail_tokens=most - 200), 0.0)
    policy.arrive(job(1, tail_tokens=most - 100), 0.0)
    assert bound(policy) == [(0, 0)]


def test_an_idle_worker_is_better_than_company() -> None:
    """Two workers, two prompts: each has its own."""
    policy = baton(StillFleet(2), PolicyOptions())
    for number in range(2):
        policy.arrive(job(number, tail_tokens=2_000), 0.0)
    assert sorted(worker for _, worker in bound(policy)) == [0, 1]


def test_a_stall_that_comes_anyway_is_shared() -> None:
    """A prompt that joins another one spoils nobody who is not spoilt already, and makes no gap long."""
    fleet = StillFleet(1)
    fleet.states[0] = replace(busy(fleet.states[0], until_s=0.01), decode_count=4)
    fleet.decoding[0] = [Decoding(written_tokens=2, stalls_count=0, elapsed_s=0.02)] * 4
    prices = StallPrices(fleet, LengthRecord(), 0.0, scarcity=0.0, spoilt_s=0.8, itl_slo_s=0.025)
    steps = NextSteps(fleet, [Given()], prices, 0.0, held_count=2)
    first = steps.best(make_offer(fleet, job(0, tail_tokens=400), 0.0))
    steps.take(first)
    second = steps.best(make_offer(fleet, job(1, tail_tokens=400), 0.0))
    assert first.begins
    assert first.step.stall_price_s > 0.1
    assert first.long_gaps_count == 4
    assert second.begins
    assert second.price_s < 0.1
    assert second.long_gaps_count == 0


def test_a_prefix_is_fetched_while_another_prompt_is_computed() -> None:
    """The worker would only wait for the blocks: a prompt without any is computed meanwhile."""
    fleet = StillFleet(2)
    names = list(range(1, 101))
    fleet.cached[0] = set(names)
    fleet.states[0] = busy(fleet.states[0], until_s=9.0)
    policy = baton(fleet, PolicyOptions())
    policy.arrive(job(0, *names, tail_tokens=10), 0.0)
    policy.arrive(job(1, tail_tokens=200), 0.0)
    ways = {given.index: way for given, way in policy.dispatch(0.0)}
    assert {index: way.prefill for index, way in ways.items()} == {0: 1, 1: 1}
    assert ways[0].fetch_from == 0


def test_who_waits_behind_makes_workers_without_outputs_dear() -> None:
    """A worker that decodes takes a prompt that would otherwise hold up a long queue."""
    fleet = StillFleet(2)
    fleet.states[0] = busy(fleet.states[0], until_s=0.0)
    fleet.decoding[0] = [Decoding(written_tokens=2, stalls_count=0, elapsed_s=0.02)]
    prices = StallPrices(fleet, LengthRecord(), 0.0, scarcity=0.0, spoilt_s=0.8, itl_slo_s=0.025)
    offer = make_offer(fleet, job(0, tail_tokens=4_000), 0.0)
    takers = [
        NextSteps(fleet, [Given(), Given()], prices, 0.0, held_count=held).best(offer).worker
        for held in (1, 200)
    ]
    assert takers == [1, 0]
