"""What a planner promises of every decision, whatever it sees."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.observation import Attainment, Backlog, Observation, PoolState
from planner.planner import Planner
from planner.settings import KindSettings, PlannerSettings
from services.domain.slo import Slo
from services.domain.worker import Phase
from tests.planner.situations import (
    LOOK_S,
    RELAXED,
    TIGHT,
    counts,
    led,
    obeyed,
    observation,
    pools,
)
from tests.planner.situations import settings as planner_settings

PREFILL, DECODE = (Phase.PREFILL, "default"), (Phase.DECODE, "default")
RATES = st.one_of(st.just(0.0), st.floats(0.01, 2_000.0))
COUNTS = st.integers(0, 30)


@st.composite
def states(draw: st.DrawFn, kinds: tuple[str, ...] = ("default",)) -> tuple[PoolState, ...]:
    """Pools in any state."""
    return tuple(
        PoolState(
            phase=phase,
            kind=kind,
            ready_count=draw(COUNTS),
            starting_s=tuple(draw(st.lists(st.floats(0.0, 100.0), max_size=3))),
            draining_count=draw(st.integers(0, 3)),
            is_held=draw(st.integers(0, 5)) == 0,
        )
        for phase in Phase
        for kind in kinds
    )


@st.composite
def stories(draw: st.DrawFn, kinds: tuple[str, ...] = ("default",)) -> list[Observation]:
    """Observations, one look after the other, that need not make sense together."""
    return [
        replace(
            observation(
                place * LOOK_S,
                draw(st.one_of(st.none(), RATES)),
                draw(states(kinds)),
                age_s=draw(st.sampled_from([0.0, 5.0, 1_000.0])),
                backlog=Backlog(waiting_count=waiting, waiting_tokens=waiting * 1_000),
            ),
            attainment=Attainment(
                request_count=draw(st.integers(0, 1_000)),
                ttft_frac=draw(st.floats(0.0, 1.0)),
                tpot_frac=draw(st.floats(0.0, 1.0)),
            ),
        )
        for place, waiting in enumerate(draw(st.lists(st.integers(0, 500), min_size=1, max_size=8)))
    ]


def is_changed(seen: Observation, decided: dict[tuple[Phase, str], int]) -> bool:
    """Whether any pool is ordered to have another size."""
    return any(decided[pool.phase, pool.kind] != pool.ordered_count for pool in seen.pools)


@given(
    story=stories(),
    prefill_min=st.integers(0, 4),
    extra=st.integers(0, 12),
    budget=st.one_of(st.none(), st.floats(8.0, 40.0)),
    starts=st.integers(1, 5),
    flips=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_no_order_is_beyond_a_limit(
    *,
    story: list[Observation],
    prefill_min: int,
    extra: int,
    budget: float | None,
    starts: int,
    flips: bool,
) -> None:
    """Maximum, budget and step hold for all pools that no person holds, whatever was there before."""
    workers_max = max(1, prefill_min) + extra
    planner = Planner(
        planner_settings(
            prefill_min=prefill_min,
            decode_min=max(1, prefill_min),
            workers_max=workers_max,
            price_per_hour_max=budget,
            starts_max=starts,
            flips=flips,
        )
    )
    for seen in story:
        decision = planner.decide(seen)
        assert flips or not decision.flips
        decided = counts(decision)
        if not is_changed(seen, decided):
            continue
        held = {(pool.phase, pool.kind): pool for pool in seen.pools if pool.is_held}
        if held:
            continue
        assert all(count <= workers_max for count in decided.values())
        before = sum(pool.ordered_count for pool in seen.pools)
        assert sum(decided.values()) - before <= max(starts, 2 * max(1, prefill_min))
        if budget is not None:
            assert sum(decided.values()) <= max(budget, prefill_min + max(1, prefill_min))


@given(story=stories())
@settings(max_examples=25, deadline=None)
def test_flips_keep_the_total_and_held_pools_stay(story: list[Observation]) -> None:
    """What one role gives the other gets; a pool that a person holds is never touched."""
    planner = Planner(planner_settings())
    for seen in story:
        decision = planner.decide(seen)
        decided = counts(decision)
        for pool in seen.pools:
            if pool.is_held:
                assert decided[pool.phase, pool.kind] == pool.ordered_count
                assert not any(flip.kind == pool.kind for flip in decision.flips)
        for flip in decision.flips:
            ready = next(p for p in seen.pools if (p.phase, p.kind) == (flip.source, flip.kind))
            assert 1 <= flip.worker_count < ready.ordered_count


@given(story=stories())
@settings(max_examples=25, deadline=None)
def test_it_never_scales_to_zero_by_accident(story: list[Observation]) -> None:
    """While a minimum is set, no decision that changes anything leaves a role without workers."""
    planner = Planner(planner_settings(prefill_min=1, decode_min=1))
    for seen in story:
        decision = planner.decide(seen)
        for pool in seen.pools:
            if pool.ordered_count > 0:
                assert counts(decision)[pool.phase, pool.kind] > 0


@given(story=stories())
@settings(max_examples=25, deadline=None)
def test_missing_and_stale_observations_change_nothing(story: list[Observation]) -> None:
    """Whoever does not know does not act, and says so; only prompts without any worker are an exception."""
    planner = Planner(planner_settings())
    for seen in story:
        decision = planner.decide(seen)
        is_blind = seen.demand is None or seen.age_s > 45.0
        if is_blind and any(pool.ordered_count for pool in seen.pools):
            assert not is_changed(seen, counts(decision))
            assert not decision.flips
            assert "nothing is changed" in decision.reasons[0]


@given(story=stories())
@settings(max_examples=20, deadline=None)
def test_a_decision_answers_every_pool_and_is_a_function_of_what_was_seen(story: list[Observation]) -> None:
    """The same observations make the same decisions, with a reason and a next look."""
    first, second = Planner(planner_settings()), Planner(planner_settings())
    for seen in story:
        decision = first.decide(seen)
        assert decision == second.decide(seen)
        assert {(pool.phase, pool.kind) for pool in seen.pools} <= set(counts(decision))
        assert decision.reasons[0]
        assert decision.look_s > 0.0
        assert all(count >= 0 for count in counts(decision).values())


@given(rate=st.floats(1.0, 150.0), factor=st.floats(1.0, 3.0))
@settings(max_examples=10, deadline=None)
def test_more_demand_and_stricter_targets_never_order_fewer(rate: float, factor: float) -> None:
    """Two planners, led alike: the one that sees more, or promises more, has at least as many workers."""
    few = led(Planner(planner_settings()), [rate] * 4, pools(1, 1))
    many = led(Planner(planner_settings()), [rate * factor] * 4, pools(1, 1))
    strict = led(Planner(planner_settings(slo=TIGHT)), [rate] * 4, pools(1, 1))
    assert sum(counts(few).values()) <= sum(counts(many).values())
    assert sum(counts(few).values()) <= sum(counts(strict).values())


@pytest.mark.parametrize(("told_s", "measured_s"), [(120.0, None), (10.0, 120.0), (500.0, 120.0)])
def test_a_worker_is_kept_for_as_long_as_a_start_takes(told_s: float, measured_s: float | None) -> None:
    """Rent or buy: after demand falls nothing is given back for `start_s`, and then it is.

    What starts were seen to take counts more than what the settings say.
    """
    planner = Planner(planner_settings(start_s=told_s))
    state = tuple(replace(pool, start_s=measured_s) for pool in pools(8, 8))
    for place in range(30):
        state = obeyed(state, planner.decide(observation(place * LOOK_S, 300.0, state)))
    before = sum(pool.ordered_count for pool in state)
    fell_s = 300.0
    sizes: dict[float, int] = {}
    for place in range(60):
        at_s = fell_s + place * LOOK_S
        state = obeyed(state, planner.decide(observation(at_s, 20.0, state)))
        sizes[at_s - fell_s] = sum(pool.ordered_count for pool in state)
    assert all(size == before for after_s, size in sizes.items() if after_s <= 110.0)
    assert sizes[590.0] <= before / 2


@pytest.mark.parametrize("gap_s", [0.0, 600.0])
def test_nothing_is_given_back_on_little_knowledge(gap_s: float) -> None:
    """Started again, or blind for long, a planner keeps what it finds for as long as a start takes."""
    planner = Planner(planner_settings(start_s=120.0))
    if gap_s:
        led(planner, [300.0] * 30, pools(6, 6))
    begin_s, sizes = 300.0 + gap_s, []
    state = pools(6, 6)
    for place in range(30):
        state = obeyed(state, planner.decide(observation(begin_s + place * LOOK_S, 5.0, state)))
        sizes.append(sum(pool.ordered_count for pool in state))
    assert min(sizes[:12]) >= 12
    assert sizes[-1] <= 3


def test_noise_moves_nothing_once_the_forecast_has_settled() -> None:
    """On independent arrivals around one rate there is hardly an action in an hour."""
    planner, state, changes = Planner(planner_settings()), pools(2, 2), 0
    rates = [60.0 + 6.0 * ((place * 7919) % 13 - 6) / 6.0 for place in range(480)]
    for place, rate in enumerate(rates):
        decision = planner.decide(observation(place * LOOK_S, rate, state))
        if place > 240:
            changes += state != obeyed(state, decision) or bool(decision.flips)
        state = obeyed(state, decision)
    assert changes <= 4


def test_a_role_is_turned_over_before_anything_is_started() -> None:
    """Where one role has what the other lacks, a flip is enough and takes effect at once."""
    planner = Planner(planner_settings(spills=False))
    led(planner, [60.0] * 30, pools(2, 2))
    decision = planner.decide(observation(300.0, 60.0, pools(1, 4)))
    assert [(flip.source, flip.worker_count) for flip in decision.flips] == [(Phase.DECODE, 1)]
    assert counts(decision)[PREFILL] == 2
    assert sum(counts(decision).values()) <= 5
    without = Planner(planner_settings(spills=False, flips=False))
    led(without, [60.0] * 30, pools(2, 2))
    assert not without.decide(observation(300.0, 60.0, pools(1, 4))).flips


def test_nobody_turns_where_both_roles_are_short_of_workers() -> None:
    """A turn that does not suffice must save more than is lost while the worker finishes what it has."""
    planner = Planner(planner_settings(start_s=120.0))
    led(planner, [40.0] * 40, pools(1, 3))
    planner.decide(observation(400.0, 120.0, pools(1, 3)))
    decision = planner.decide(observation(410.0, 120.0, pools(1, 3)))
    assert sum(counts(decision).values()) > 4
    assert not decision.flips


def test_a_turn_is_taken_back_at_once_where_a_role_falls_below_its_minimum() -> None:
    """A limit counts more than the turn before it; without one the turn is kept."""
    for decode_min, sources in ((1, []), (2, [Phase.PREFILL])):
        planner = Planner(planner_settings(spills=False, decode_min=decode_min))
        led(planner, [60.0] * 30, pools(2, 2))
        assert [flip.source for flip in planner.decide(observation(300.0, 60.0, pools(1, 4))).flips] == [
            Phase.DECODE
        ]
        after = planner.decide(observation(310.0, 60.0, pools(3, 1)))
        assert [flip.source for flip in after.flips] == sources


def test_what_waits_beyond_the_target_is_cleared() -> None:
    """A backlog calls for prefill workers beyond the flow."""
    planner = Planner(planner_settings(spills=False))
    led(planner, [40.0] * 30, pools(2, 6))
    waiting = Backlog(waiting_count=2_000, waiting_tokens=2_000 * 1_155)
    decision = planner.decide(observation(300.0, 40.0, pools(2, 6), backlog=waiting))
    assert decision.flips
    assert decision.flips[0].source is Phase.DECODE
    assert any("wait too long" in reason for reason in decision.reasons)


def test_the_measured_pace_corrects_the_plan() -> None:
    """Engines that are slower than their model need more of them."""
    promised, slow = Planner(planner_settings()), Planner(planner_settings())
    state = pools(2, 2)
    measured = Attainment(request_count=400, prefill_pace=1.8, decode_pace=1.8)
    for place in range(30):
        at_promise = promised.decide(observation(place * LOOK_S, 80.0, state))
        at_slow = slow.decide(observation(place * LOOK_S, 80.0, state, attainment=measured))
    assert sum(counts(at_slow).values()) > sum(counts(at_promise).values())


def test_late_requests_tighten_the_plan_and_punctual_ones_ease_it() -> None:
    """The error budget is spent when it is there, and saved when it was overdrawn; within its bound."""
    quick = msgspec.structs.replace(planner_settings(slo=TIGHT), budget_memory_s=600.0)
    good, bad = Planner(quick), Planner(quick)
    assert good.allowed_late_frac < 0.01, "whoever knows nothing yet is strict"
    for place in range(150):
        state = pools(4, 4)
        good.decide(observation(place * LOOK_S, 60.0, state, attainment=Attainment(request_count=600)))
        bad.decide(
            observation(place * LOOK_S, 60.0, state, attainment=Attainment(request_count=600, ttft_frac=0.9))
        )
    assert 0.01 < good.allowed_late_frac < 0.04, "much more takes hours to save"
    least = 0.001 / 4.0  # a tenth of the budget, and a model that says a quarter of what comes
    assert least * (1 - 1e-9) <= bad.allowed_late_frac < 0.01


def test_it_sleeps_when_allowed_and_the_queue_wakes_it() -> None:
    """Nothing asked for, for as long as a start takes: both roles go to none; a waiting prompt wakes them."""
    planner = Planner(planner_settings(prefill_min=0, decode_min=0, start_s=60.0))
    state, sizes = pools(1, 1), []
    for place in range(60):
        rate = 2.0 if place < 20 else 0.0
        state = obeyed(state, planner.decide(observation(place * LOOK_S, rate, state)))
        sizes.append(sum(pool.ordered_count for pool in state))
    assert min(sizes[:25]) >= 1
    assert sizes[-1] == 0
    woken = planner.decide(
        observation(600.0, 0.0, state, backlog=Backlog(waiting_count=1, waiting_tokens=900))
    )
    assert counts(woken) == {PREFILL: 1, DECODE: 1}
    unknown = planner.decide(observation(610.0, None, state, backlog=Backlog(waiting_count=1)))
    assert counts(unknown) == {PREFILL: 1, DECODE: 1}


def test_an_impossible_target_says_so_and_still_plans() -> None:
    """The cheapest plan that comes closest, and a sentence about it."""
    impossible = Planner(planner_settings(slo=Slo(ttft_s=0.005, tpot_s=0.001)))
    decision = led(impossible, [40.0] * 10, pools(2, 2))
    assert sum("out of reach" in reason for reason in decision.reasons) == 2
    assert 2 <= sum(counts(decision).values()) < 100


def test_limits_that_bind_are_said() -> None:
    """What a limit leaves undone stands in the reasons."""
    decision = led(Planner(planner_settings(workers_max=2)), [200.0] * 10, pools(1, 1))
    assert sum(counts(decision).values()) == 4
    assert any("limits leave" in reason for reason in decision.reasons)


KINDS = (
    KindSettings(name="big", price_per_hour=4.0),
    KindSettings(name="small", performance="h100-llama-3.1-8b-bf16", price_per_hour=1.5),
)


@pytest.mark.parametrize(("price", "taken"), [(1.5, "small"), (6.0, "big")])
def test_the_kind_of_the_least_price_for_the_work_is_started(price: float, taken: str) -> None:
    """The same kinds at other prices make another choice."""
    kinds = (KINDS[0], KindSettings(name="small", performance="h100-llama-3.1-8b-bf16", price_per_hour=price))
    planner = Planner(planner_settings(kinds=kinds, slo=RELAXED))
    decision = led(planner, [150.0] * 10, pools(1, 1, kind="big"))
    started = {
        kind: sum(count for (_phase, name), count in counts(decision).items() if name == kind)
        for kind in ("big", "small")
    }
    assert started[taken] > started["big" if taken == "small" else "small"]


@given(story=stories(("big", "small")))
@settings(max_examples=15, deadline=None)
def test_several_kinds_keep_the_promises_too(story: list[Observation]) -> None:
    """Kinds are never mixed up: each flip stays within its kind, and no count is negative."""
    planner = Planner(PlannerSettings(kinds=KINDS, look_s=LOOK_S))
    for seen in story:
        decision = planner.decide(seen)
        assert all(count >= 0 for count in counts(decision).values())
        for kind in ("big", "small"):
            flipped = [flip for flip in decision.flips if flip.kind == kind]
            assert len({flip.source for flip in flipped}) <= 1


def test_a_role_below_its_minimum_is_filled_by_turning_first() -> None:
    """What the other role does not need takes no start; what it needs it keeps."""
    chosen = planner_settings(decode_min=2)
    idle = Planner(chosen).decide(observation(0.0, 1.0, pools(2, 1)))
    assert [(flip.source, flip.worker_count) for flip in idle.flips] == [(Phase.PREFILL, 1)]
    assert counts(idle) == {PREFILL: 1, DECODE: 2}
    least = Planner(chosen).decide(observation(0.0, 1.0, pools(1, 1)))
    assert not least.flips
    assert counts(least) == {PREFILL: 1, DECODE: 2}
