"""One thing moves at a time on a link, and none that is ready waits while the link is free."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.replay.transfers import TAKEN_MAX, Link

moves = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=30)
"""When each is ready, and for how long it moves."""


@given(moves=moves)
def test_in_the_order_in_which_they_are_ready_each_waits_for_the_one_before(
    moves: list[tuple[int, int]],
) -> None:
    """The plain queue."""
    link, free_s = Link(), 0.0
    for ready_s, duration_s in sorted(moves):
        free_s = max(free_s, ready_s) + duration_s
        assert link.take(ready_s, duration_s) == free_s
    assert link.free_s(0.0) == free_s


@given(moves=moves)
def test_no_time_is_taken_twice_and_none_is_left_for_nothing(moves: list[tuple[int, int]]) -> None:
    """Second by second, whatever the order: a move takes the first that are free from when it is ready on."""
    link, taken = Link(), set[int]()
    for ready_s, duration_s in moves:
        end, left = ready_s, duration_s
        while left:
            left -= end not in taken
            taken.add(end)
            end += 1
        assert link.take(ready_s, duration_s) == end


def test_what_is_long_ago_is_forgotten_and_not_given_away_again() -> None:
    """Beyond what is remembered a move goes behind the forgotten ones, though there was time between them."""
    link = Link()
    for second in range(TAKEN_MAX + 2):
        link.take(2.0 * second, 1.0)
    assert link.take(0.0, 1.0) == pytest.approx(4.0)
