"""The error budget is held and not only met on the average: the more chance there is, the lower the aim."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.observation import Attainment
from planner.stabilising.error_budget import SOON_TIMES, ErrorBudget

LATE_FRAC = 0.01


def after_an_hour(late_frac: float, requests_per_s: float) -> float:
    """Share of late requests that is allowed after an hour of so many being late."""
    budget = ErrorBudget(late_frac=LATE_FRAC, memory_s=600.0, factor_max=10.0)
    told = Attainment(request_count=round(60.0 * requests_per_s), ttft_frac=1.0 - late_frac)
    for at_s in range(0, 3_601, 10):
        budget.fold(float(at_s), told, requests_per_s)
    return budget.allowed_late_frac


@given(requests_per_s=st.floats(1.0, 1_000.0))
def test_a_fleet_that_is_late_as_often_as_allowed_becomes_stricter(requests_per_s: float) -> None:
    """Half of those that keep a share on the average miss it."""
    assert after_an_hour(LATE_FRAC, requests_per_s) < LATE_FRAC
    assert after_an_hour(0.0, requests_per_s) > LATE_FRAC
    assert after_an_hour(2.0 * LATE_FRAC, requests_per_s) == pytest.approx(LATE_FRAC / 10.0)


def test_the_more_are_counted_the_closer_is_the_aim() -> None:
    """At ten times the rate chance is three times smaller: what is strict enough there is not here."""
    late_frac = 0.9 * LATE_FRAC
    assert after_an_hour(late_frac, 100.0) > after_an_hour(late_frac, 10.0)


def test_much_is_saved_over_hours_and_spent_at_once() -> None:
    """Ten quiet minutes allow a few times the budget; what hours saved is gone after minutes of late ones."""
    budget = ErrorBudget(late_frac=LATE_FRAC, memory_s=300.0, factor_max=10.0)
    at_s, course = 0.0, []
    for minutes, late_frac in ((15, 0.0), (180, 0.0), (10, 0.03)):
        told = Attainment(request_count=6_000, ttft_frac=1.0 - late_frac)
        for _look in range(6 * minutes):
            at_s += 10.0
            budget.fold(at_s, told, 100.0)
        course.append((budget.allowed_late_frac / LATE_FRAC, budget.allowed_max_frac / LATE_FRAC))
    (soon, soon_most), (saved, saved_most), (spent, spent_most) = course
    assert soon == pytest.approx(SOON_TIMES, rel=0.1)
    assert saved == pytest.approx(10.0)
    assert spent < 1.0
    assert soon_most == pytest.approx(soon)
    assert saved_most == pytest.approx(saved)
    assert spent_most == pytest.approx(SOON_TIMES)
