"""A season is found whatever its length, foretold, forgotten when it ends, and not found in noise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.forecasting.cycles import Cycles
from planner.forecasting.ensemble import Forecaster
from planner.planner import Planner
from planner.proof.made_loads import sine
from planner.proof.simulation import run_scaler
from planner.proof.work import DEFAULT_ENGINE, Work
from planner.settings import KindSettings, PlannerSettings, TargetSettings
from tests.planner.test_forecasts import seen

LOOK_S = 10.0


def wave(at_s: float, period_s: float) -> float:
    """Requests/s of a season, between 5 and 45."""
    return 25.0 - 20.0 * math.cos(2 * math.pi * at_s / period_s)


def followed(period_s: float, *, periods: float, seed: int, quiet_s: float = 600.0) -> tuple[Cycles, float]:
    """Follow independent arrivals, at first a quiet time, then a season; returns its last moment."""
    rng, cycles, at_s = np.random.default_rng(seed), Cycles(LOOK_S, 1), 0.0
    while at_s < quiet_s + periods * period_s:
        rate = wave(max(0.0, at_s - quiet_s), period_s)
        cycles.fold(at_s, np.array([rng.poisson(rate * LOOK_S) / LOOK_S]))
        at_s += LOOK_S
    return cycles, at_s - LOOK_S - quiet_s


@given(period_s=st.floats(100.0, 2_000.0), seed=st.integers(0, 1_000))
@settings(max_examples=12, deadline=None)
def test_a_season_of_any_length_is_found_within_four_of_its_lengths(period_s: float, seed: int) -> None:
    """And told half a minute ahead by half of what it swings, at every phase.

    What is found may be several periods long, which repeats as well.
    """
    cycles, at_s = followed(period_s, periods=4.0, seed=seed)
    assert cycles.period_s is not None
    times = round(cycles.period_s / period_s)
    assert times >= 1
    assert cycles.period_s == pytest.approx(times * period_s, rel=0.05)
    for after_s in np.linspace(LOOK_S, period_s, 12).tolist():
        assert abs(cycles.ahead(after_s)[0] - wave(at_s + after_s, period_s)) < 20.0


def test_a_season_of_two_hours_is_found_in_what_is_remembered() -> None:
    """Twice its length is all that is kept."""
    cycles, _at_s = followed(7_200.0, periods=3.0, seed=1)
    assert cycles.period_s == pytest.approx(7_200.0, rel=0.05)


@given(level=st.floats(0.5, 300.0), seed=st.integers(0, 10_000))
@settings(max_examples=12, deadline=None)
def test_no_season_is_found_in_noise(level: float, seed: int) -> None:
    """Independent arrivals for two hours have none at any look."""
    rng, cycles = np.random.default_rng(seed), Cycles(LOOK_S, 1)
    for look in range(720):
        cycles.fold(look * LOOK_S, np.array([rng.poisson(level * LOOK_S) / LOOK_S]))
        assert cycles.period_s is None
    assert math.isinf(cycles.ahead(60.0)[0])


def test_a_season_that_ends_is_forgotten() -> None:
    """Once two of its lengths have passed without it."""
    cycles, _at_s = followed(300.0, periods=8.0, seed=3)
    assert cycles.period_s is not None
    begun_s = 600.0 + 8.0 * 300.0
    for at_s in np.arange(begun_s, begun_s + 600.0, LOOK_S).tolist():
        cycles.fold(at_s, np.array([25.0]))
    assert cycles.period_s is None


def test_after_a_gap_longer_than_memory_nothing_is_known() -> None:
    """What was before says nothing of now; a short gap is bridged."""
    cycles, at_s = followed(300.0, periods=8.0, seed=3, quiet_s=0.0)
    cycles.fold(at_s + 3.0 * LOOK_S, np.array([wave(at_s + 3.0 * LOOK_S, 300.0)]))
    assert cycles.period_s is not None
    cycles.fold(at_s + 100_000.0, np.array([25.0]))
    assert cycles.period_s is None


def test_what_comes_in_between_is_told_once_a_whole_cycle_came_as_foretold() -> None:
    """At a trough, asked for the next one, a proven season tells of the crest between them."""
    period_s, forecaster, told = 300.0, Forecaster((LOOK_S, 290.0)), []
    for at_s in np.arange(0.0, 12.0 * period_s + LOOK_S, LOOK_S).tolist():
        forecaster.fold(at_s, seen(wave(at_s, period_s)))
        told.append(forecaster.most_within(1))
    assert told[round(2.5 * period_s / LOOK_S)] is None, "seen twice, but nothing was foretold yet"
    last = told[-1]
    assert last is not None
    assert forecaster.ahead(1).requests_per_s < 8.0
    assert last.requests_per_s == pytest.approx(45.0, rel=0.05)


def test_a_fleet_breathes_with_a_season() -> None:
    """Of 5 to 45 requests/s in two and a half minutes: workers go and come in every cycle, and say why.

    Those that are left and late starts cost no requests: from the fifth cycle on 99 % are in time.
    """
    targets, startup_s = TargetSettings(ttft_s=2.0, tpot_s=0.025), 30.0
    load = sine(low_per_s=5, high_per_s=45, period_s=150, periods=10, step_s=1.0, seed=1)
    planner = Planner(PlannerSettings(targets=targets, kinds=(KindSettings(start_s=startup_s),)))
    run = run_scaler(planner, Work(load=load, engine=DEFAULT_ENGINE, slo=targets.slo), startup_s=startup_s)
    known = slice(600, None)
    cycles = run.paid[known].reshape(-1, 150)
    assert (cycles.min(axis=1) <= 0.7 * cycles.max(axis=1)).all()
    assert float(run.grades.met[known].sum()) >= 0.99 * float(run.grades.judged[known].sum())
    assert any("a season of 150 s" in reason for reason in run.reasons)
