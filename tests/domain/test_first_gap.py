"""A first token is shown early only where the gap behind it is not the tail of all gaps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.first_gap import PLANNED_FRAC, first_gap_max_s

PLANNED_S = PLANNED_FRAC * 0.025


@pytest.mark.parametrize(
    ("output_tokens", "gap_s"), [(400, PLANNED_S), (101, PLANNED_S), (100, 0.008), (2, 0.008)]
)
def test_short_outputs_wait_for_a_usual_step(output_tokens: int, gap_s: float) -> None:
    """From a hundred gaps on, one of them may be nearly as long as the target."""
    assert first_gap_max_s(output_tokens=output_tokens, step_s=0.008, tpot_target_s=0.025) == gap_s


@given(st.floats(1, 10_000), st.floats(0, 1), st.floats(0.001, 1))
def test_never_more_than_the_target(output_tokens: float, step_s: float, target_s: float) -> None:
    """However long a step is."""
    assert first_gap_max_s(output_tokens=output_tokens, step_s=step_s, tpot_target_s=target_s) <= target_s
