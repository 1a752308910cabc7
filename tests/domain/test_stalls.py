"""What a prompt may cost those who decode beside it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.stalls import Decoding, Targets, stall_price_s

TARGETS = Targets(ttft_s=2.0, tpot_s=0.025, output_tokens=400)
DECODING = st.builds(
    Decoding,
    written_tokens=st.integers(0, 4000),
    stalls_count=st.integers(0, 40),
    elapsed_s=st.floats(0, 100),
)


def price(*decoding: Decoding, stall_s: float = 0.2, stalls_count: int = 1) -> float | None:
    """Price one prompt."""
    return stall_price_s(decoding, stall_s=stall_s, stalls_count=stalls_count, targets=TARGETS)


def test_nobody_there_costs_nothing() -> None:
    """A worker without decoding requests takes a prompt for free."""
    assert price() == 0.0


def test_one_gap_in_a_hundred_is_free() -> None:
    """A request with 100 tokens behind it bears one stall, and not a second."""
    rested = Decoding(written_tokens=100, stalls_count=0, elapsed_s=2.6)
    stalled = Decoding(written_tokens=100, stalls_count=1, elapsed_s=2.6)
    assert price(rested) == 0.0
    assert price(rested, stalls_count=2) is None
    assert price(stalled) is None


def test_a_request_ahead_of_its_pace_is_paid_for() -> None:
    """Its tail is spoilt, its mean bears it: a second of stall costs TTFT of the same share of its target."""
    fast = Decoding(written_tokens=50, stalls_count=0, elapsed_s=0.4)
    assert price(fast) == pytest.approx(0.2 * 2.0 / (400 * 0.025))
    assert price(fast, fast) == pytest.approx(2 * 0.2 * 2.0 / (400 * 0.025))


def test_a_request_that_just_began_is_left_alone() -> None:
    """Without a token it has nothing in hand."""
    assert price(Decoding(written_tokens=0, stalls_count=0, elapsed_s=0.0)) is None


@given(st.lists(DECODING, max_size=6), DECODING, st.floats(0.001, 2), st.integers(1, 5))
def test_one_request_more_never_makes_it_cheaper(
    others: list[Decoding], one: Decoding, stall_s: float, stalls_count: int
) -> None:
    """Prices grow with the number of requests, and a refusal stays one."""
    before = price(*others, stall_s=stall_s, stalls_count=stalls_count)
    after = price(*others, one, stall_s=stall_s, stalls_count=stalls_count)
    if before is None:
        assert after is None
    else:
        assert after is None or after >= before


@given(st.lists(DECODING, max_size=6), st.floats(0.001, 1), st.floats(0, 1), st.integers(1, 5))
def test_a_longer_stall_never_costs_less(
    decoding: list[Decoding], stall_s: float, more_s: float, stalls_count: int
) -> None:
    """Prices grow with the stall."""
    short = price(*decoding, stall_s=stall_s, stalls_count=stalls_count)
    long = price(*decoding, stall_s=stall_s + more_s, stalls_count=stalls_count + 1)
    if short is None:
        assert long is None
    else:
        assert long is None or long >= short
