"""Whole workers with foresight: never below the bound, and near it where workers are many."""

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.proof.bound import clairvoyant_bound
from planner.proof.foresight import foreseen_fleet
from services.domain.slo import Slo
from tests.planner.proof.even_loads import CHAT, QUICK, work_of


@given(
    rates=st.lists(st.floats(0.0, 300.0), min_size=12, max_size=40),
    startup_s=st.floats(0.0, 200.0),
    is_quick=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_whole_workers_never_cost_less_than_the_bound(
    rates: list[float], startup_s: float, is_quick: bool
) -> None:
    """In no step do fewer serve than the work keeps busy."""
    work = work_of(rates, QUICK if is_quick else CHAT)
    bound = clairvoyant_bound(work, startup_s=startup_s)
    foreseen = foreseen_fleet(work, startup_s=startup_s, late_frac=0.01)
    assert (foreseen.fleet >= bound.fleet).all()
    assert foreseen.gpu_s >= bound.gpu_s - 1e-6


def test_what_queues_and_whole_workers_cost_shrinks_with_the_load() -> None:
    """With targets near a prompt's own time; with others whole workers are nearly all used up."""

    def ratio(rate: float, slo: Slo = QUICK) -> float:
        work = work_of([rate] * 30, slo)
        bound = clairvoyant_bound(work, startup_s=60.0)
        return foreseen_fleet(work, startup_s=60.0, late_frac=0.01).gpu_s / bound.gpu_s

    assert ratio(2_500.0) < ratio(600.0) < ratio(60.0) < 2.0
    assert ratio(2_500.0, CHAT) < 1.05
