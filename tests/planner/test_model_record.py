"""The model is believed as far as late requests come as it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.stabilising.believing import FACTOR_MAX, ModelRecord

shares = st.floats(0.0, 1.0)


def after(duration_s: int, *, said_frac: float, seen_frac: float, requests_per_s: float = 50.0) -> float:
    """The factor after looks each ten seconds."""
    record = ModelRecord(600.0)
    for at_s in range(0, duration_s + 1, 10):
        record.fold(float(at_s), said_frac=said_frac, seen_frac=seen_frac, requests_per_s=requests_per_s)
    return record.factor


def test_a_model_that_is_right_stays_believed() -> None:
    """However long it is."""
    assert after(3_600, said_frac=0.01, seen_frac=0.01) == pytest.approx(1.0)


def test_a_model_that_says_twice_as_many_is_taken_for_half() -> None:
    """Within its memory, and the other way round."""
    assert after(3_600, said_frac=0.02, seen_frac=0.01) == pytest.approx(2.0, rel=0.15)
    assert after(3_600, said_frac=0.01, seen_frac=0.02) == pytest.approx(0.5, rel=0.15)


def test_few_requests_tell_little() -> None:
    """At one request in ten seconds nobody is late often enough to say anything."""
    assert after(600, said_frac=0.02, seen_frac=0.0, requests_per_s=0.1) < 1.05


@given(shares, shares, st.floats(0.0, 1_000.0))
def test_within_its_bounds(said_frac: float, seen_frac: float, requests_per_s: float) -> None:
    """More seen never makes it allow more."""
    factor = after(600, said_frac=said_frac, seen_frac=seen_frac, requests_per_s=requests_per_s)
    assert 1 / FACTOR_MAX <= factor <= FACTOR_MAX
    worse = after(
        600, said_frac=said_frac, seen_frac=min(1.0, 1.1 * seen_frac), requests_per_s=requests_per_s
    )
    assert worse <= factor


def test_what_was_is_forgotten() -> None:
    """An hour in which the model is right outweighs one in which it was not."""
    record = ModelRecord(600.0)
    for at_s in range(0, 7_200, 10):
        seen_frac = 0.0 if at_s < 3_600 else 0.01
        record.fold(float(at_s), said_frac=0.01, seen_frac=seen_frac, requests_per_s=50.0)
    assert record.factor == pytest.approx(1.0, abs=0.05)
