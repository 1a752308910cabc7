"""The cluster's own tail: free while it is hardly used, dear when it is used up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.learning.tail_account import GAPS_LEAST, TailAccount


def test_one_gap_in_a_hundred_is_the_full_price() -> None:
    """Half of that is nearly free, twice as much is far dearer."""
    account = TailAccount()
    account.write(100_000)
    account.stall(500)
    assert account.scarcity < 0.1
    account.stall(500)
    assert account.scarcity == pytest.approx(1.0)
    account.stall(1000)
    assert account.scarcity > 10


def test_stalls_are_forgotten_as_gaps_are_written() -> None:
    """What was long an age ago is one of many gaps."""
    account = TailAccount()
    account.stall(10_000)
    for _ in range(5_000):
        account.write(300)
    assert account.scarcity < 0.001


@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 500)), max_size=30), st.integers(1, 500))
def test_a_stall_makes_the_next_no_cheaper(past: list[tuple[int, int]], gaps: int) -> None:
    """Whatever went before, and from the first one on."""
    account = TailAccount()
    for written, stalled in past:
        account.write(written)
        account.stall(stalled)
    before = account.scarcity
    account.stall(gaps)
    assert account.scarcity > before >= 0
    assert gaps < GAPS_LEAST
