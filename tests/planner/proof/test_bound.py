"""The clairvoyant bound is the cost of the cheapest feasible fleet: nothing feasible is cheaper."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.proof.bound import cheapest_fleet, clairvoyant_bound
from planner.proof.simulation import run_scaler
from services.domain.slo import Slo
from tests.planner.proof.even_loads import CHAT, QUICK, work_of
from tests.planner.proof.scalers import Fixed

NEEDS = st.lists(st.integers(0, 3), min_size=1, max_size=6)
STARTUPS_S = st.sampled_from([0.0, 5.0, 10.0, 15.0, 25.0, 60.0])


def cost_s(fleet: tuple[int, ...], *, step_s: float, startup_s: float) -> float:
    """What a fleet costs: its time, and a start-up for each worker more than in the step before."""
    rises = sum(max(0, after - before) for before, after in pairwise(fleet))
    return sum(fleet) * step_s + rises * startup_s


@given(needed=NEEDS, startup_s=STARTUPS_S)
def test_no_fleet_of_all_that_there_are_is_cheaper(needed: list[int], startup_s: float) -> None:
    """Every fleet that has what is needed in each step costs at least the bound, and one costs just that."""
    bound = cheapest_fleet(np.array(needed), step_s=10.0, startup_s=startup_s)
    feasible = product(*(range(least, 4) for least in needed))
    costs = [cost_s(fleet, step_s=10.0, startup_s=startup_s) for fleet in feasible]
    assert bound.gpu_s == pytest.approx(min(costs))


@given(needed=NEEDS, startup_s=STARTUPS_S)
def test_the_fleet_of_the_bound_is_one_of_them(needed: list[int], startup_s: float) -> None:
    """The fleet that the bound tells has what is needed, and costs what the bound says."""
    bound = cheapest_fleet(np.array(needed), step_s=10.0, startup_s=startup_s)
    fleet = tuple(int(count) for count in bound.fleet)
    assert all(have >= need for have, need in zip(fleet, needed, strict=True))
    assert cost_s(fleet, step_s=10.0, startup_s=startup_s) == pytest.approx(bound.gpu_s)


@given(needed=NEEDS, short_s=STARTUPS_S, longer_s=STARTUPS_S)
def test_a_longer_start_never_costs_less(needed: list[int], short_s: float, longer_s: float) -> None:
    """The bound grows with the start-up time."""
    short_s, longer_s = sorted((short_s, longer_s))
    cheap = cheapest_fleet(np.array(needed), step_s=10.0, startup_s=short_s)
    dear = cheapest_fleet(np.array(needed), step_s=10.0, startup_s=longer_s)
    assert cheap.gpu_s <= dear.gpu_s + 1e-9


@given(rates=st.lists(st.floats(0, 400), min_size=10, max_size=40), startup_s=STARTUPS_S)
def test_it_pays_for_all_work(rates: list[float], startup_s: float) -> None:
    """Never less than the work itself."""
    work = work_of(rates)
    bound = clairvoyant_bound(work, startup_s=startup_s)
    busy_s = float((work.prefill_gpus + work.decode_gpus).sum()) * work.load.step_s
    assert bound.gpu_s >= busy_s - 1e-6


@pytest.mark.parametrize("slo", [CHAT, QUICK])
def test_no_fixed_fleet_below_the_bound_meets_the_targets(slo: Slo) -> None:
    """In the fluid cluster, however divided, 3 in 4 of the bound's workers leave many requests late."""
    work = work_of([200.0] * 60, slo)
    few = int(0.75 * float((work.prefill_gpus + work.decode_gpus)[0]))
    for prefill in range(1, few):
        run = run_scaler(Fixed(prefill, few - prefill), work, startup_s=30.0)
        assert run.grades.met[30:].sum() < 0.9 * run.grades.judged[30:].sum()
