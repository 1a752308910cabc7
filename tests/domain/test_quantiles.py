"""A followed quantile settles where just the named share lies beyond it, and stays within its bounds."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.quantiles import FollowedQuantile


@pytest.mark.parametrize("beyond_frac", [0.05, 0.2, 0.5])
def test_just_the_share_lies_beyond(beyond_frac: float) -> None:
    """Of values of any size; and it goes along when they change."""
    rng = random.Random(7)
    quantile = FollowedQuantile(beyond_frac=beyond_frac, value=1.0, least=1e-6, most=1e6)
    for scale in (0.3, 5.0):
        for _ in range(4_000):
            quantile.fold(scale * rng.random())
        assert 1 - quantile.value / scale == pytest.approx(beyond_frac, abs=0.1)


@given(st.lists(st.floats(0.0, 1e9)), st.floats(0.01, 1.0))
def test_it_stays_within_its_bounds(values: list[float], beyond_frac: float) -> None:
    """Whatever comes."""
    quantile = FollowedQuantile(beyond_frac=beyond_frac, value=1.0, least=0.5, most=4.0)
    for value in values:
        quantile.fold(value)
        assert 0.5 <= quantile.value <= 4.0
