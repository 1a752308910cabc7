"""Waiting counts beside length, and never against a prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.aging import aged_s


@given(st.floats(0.001, 10.0), st.floats(0.0, 100.0), st.floats(0.1, 100.0))
def test_waiting_makes_a_prompt_count_for_less(prefill_s: float, waited_s: float, more_s: float) -> None:
    """But never for nothing."""
    assert 0.0 < aged_s(prefill_s, prefill_s, waited_s + more_s) < aged_s(prefill_s, prefill_s, waited_s)


@given(st.floats(0.001, 10.0))
def test_it_counts_for_half_when_it_has_waited_for_as_long_as_it_takes(prefill_s: float) -> None:
    """And for all of it when it has just come."""
    assert aged_s(prefill_s, prefill_s, 0.0) == pytest.approx(prefill_s)
    assert aged_s(prefill_s, prefill_s, prefill_s) == pytest.approx(prefill_s / 2)
