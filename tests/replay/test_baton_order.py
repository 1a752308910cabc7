"""The order of Baton's queue in the replay: short ones first, and the long ones not for ever behind."""

import random

from hypothesis import given
from hypothesis import strategies as st

from services.replay.policies.baton_order import LEAST_FRAC, OVERDUE_FACTOR, QueueOrder

TARGET_S = 2.0
prefills = st.floats(0.01, 3.0)
ages = st.floats(0.0, 5.0)


def used_to(ttft_s: float) -> QueueOrder:
    """An order in a cluster whose TTFT has long been spread evenly up to so much."""
    rng, order = random.Random(1), QueueOrder(TARGET_S)
    for _ in range(3_000):
        order.fold(rng.uniform(0, ttft_s))
    return order


@given(prefills, prefills)
def test_the_shorter_goes_first_while_there_is_time(one_s: float, other_s: float) -> None:
    """Of two that have just come and can wait, as long as nothing tells of a tail."""
    order = QueueOrder(TARGET_S)
    short_s, long_s = sorted((one_s, other_s))
    if short_s > LEAST_FRAC * TARGET_S and long_s < 0.6 * TARGET_S:
        assert order.rank_s(short_s, 0.0) <= order.rank_s(long_s, 0.0)


@given(prefills, ages)
def test_waiting_makes_urgent(prefill_s: float, age_s: float) -> None:
    """Whatever waits long enough goes before anything that has just come."""
    order, overdue_s = QueueOrder(TARGET_S), OVERDUE_FACTOR * TARGET_S + 0.01
    assert order.rank_s(prefill_s, age_s + overdue_s) < order.rank_s(0.01, 0.0)


@given(st.floats(0.03, 0.4), st.floats(0.0, 0.5), st.floats(0.1, 0.5))
def test_of_two_alike_the_one_that_waited_longer_goes_first(
    prefill_s: float, age_s: float, more_s: float
) -> None:
    """As long as both can meet the target."""
    order = QueueOrder(TARGET_S)
    assert order.rank_s(prefill_s, age_s + more_s) < order.rank_s(prefill_s, age_s)


def test_one_that_can_keep_the_tail_short_goes_before_shorter_ones() -> None:
    """Where 95 of 100 are computed within a second, a prompt of 0.8 s does not wait behind one of 0.3 s."""
    calm, busy = used_to(0.2), used_to(1.05)
    assert busy.rank_s(0.8, 0.0) < busy.rank_s(0.3, 0.0)
    assert calm.rank_s(0.8, 0.0) > calm.rank_s(0.3, 0.0), "beyond the tail whatever is done"


def test_a_short_one_waits_its_turn_however_near_it_is_to_the_tail() -> None:
    """A prompt that has waited itself to the percentile does not go before all that came after it."""
    busy = used_to(1.05)
    assert busy.rank_s(0.09, 0.8) > busy.rank_s(0.005, 0.0)


def test_one_that_is_beyond_the_target_waits_for_one_that_is_not() -> None:
    """It is late anyway; the other one need not be."""
    order = QueueOrder(TARGET_S)
    assert order.rank_s(0.4, 2.1) > order.rank_s(0.4, 1.5)
