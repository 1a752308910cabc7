"""Forecasts: near the truth on shapes that loads have, quick after a jump, honest about their error."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.forecasting.ensemble import Forecaster
from planner.forecasting.smoothing import BINS_PER_DAY, CYCLES, LEVELS_S, PLAIN_COUNT, TRENDS_S, Smoothers
from planner.observation import Demand

LOOK_S = 10.0
AHEAD_S = 70.0
HOUR_S = 3_600.0
DAY_S = 86_400.0
SEASONAL = slice(2 * PLAIN_COUNT, CYCLES)
"""Methods with the season of a day or a week."""
BY_LIBRARY = {
    90.0: (75.5876931413, 75.5876931413, 75.5876931413),
    600.0: (49.5447379594, 49.5447379594, 49.5447379594),
    (120.0, 360.0): (75.2713352316, 77.0268586355, 81.0521043476),
    (300.0, 900.0): (58.2583860118, 58.7549588102, 60.0010054600),
    (900.0, 3600.0): (46.7673149205, 46.8209077585, 46.9616576643),
}
"""Constants, and what statsmodels 0.15.0 expects of `RISING` after 1, 4 and 12 looks.

Its parameters, with looks every d seconds, constants c of the level and t of the trend: smoothing_level
1 - exp(-d/c), damping_trend f = exp(-d/t), smoothing_trend t (1 - f)^2 / (d f); initial level the first look,
initial trend 0."""
RISING = (
    40, 43, 38, 41, 47, 52, 50, 55, 61, 58, 66, 70, 69, 75, 74, 80, 83, 79, 86, 90, 88, 87, 91, 85
)  # fmt: skip
Course = Callable[[float], float]


def seen(rate: float) -> Demand:
    """Demand at a rate."""
    return Demand(
        window_s=LOOK_S,
        requests_per_s=rate,
        prompt_tokens=1_000.0,
        uncached_tokens=1_000.0,
        uncached_square_tokens=1e6,
        output_tokens=200.0,
        output_square_tokens=40_000.0,
    )


def followed(
    course: Course, *, end_s: float, seed: int | None = 1, begin_s: float = 0.0
) -> tuple[list[float], list[float]]:
    """Relative errors and announced ones of forecasts for `AHEAD_S`, after each look."""
    rng = np.random.default_rng(seed)
    forecaster, errors, announced = Forecaster((LOOK_S, AHEAD_S)), [], []
    for at_s in np.arange(begin_s, end_s, LOOK_S).tolist():
        rate = course(at_s)
        forecaster.fold(at_s, seen(rng.poisson(rate * LOOK_S) / LOOK_S if seed is not None else rate))
        ahead = forecaster.ahead(1)
        errors.append(ahead.requests_per_s / course(at_s + AHEAD_S) - 1.0)
        announced.append(max(ahead.spread.prefill_frac, ahead.spread.decode_frac))
    return errors, announced


def rms(errors: list[float]) -> float:
    """Root of the mean square."""
    return math.sqrt(sum(error * error for error in errors) / len(errors))


@pytest.mark.parametrize(
    ("course", "most"),
    [
        pytest.param(lambda _at_s: 40.0, 0.02, id="constant"),
        pytest.param(lambda at_s: 20.0 + at_s / 180.0, 0.03, id="ramp"),
        pytest.param(lambda at_s: 40.0 + 25.0 * math.sin(2 * math.pi * at_s / DAY_S), 0.02, id="day"),
        pytest.param(lambda at_s: 25.0 + 20.0 * math.sin(2 * math.pi * at_s / HOUR_S), 0.12, id="hour"),
    ],
)
def test_a_forecast_averages_chance_out_and_follows_the_course(course: Course, most: float) -> None:
    """Single looks are off by 5 % of chance at 40 requests/s; a forecast of a steady course by far less."""
    errors, _announced = followed(course, end_s=3 * HOUR_S)
    assert rms(errors[360:]) < most


@pytest.mark.parametrize(("constants", "expected"), BY_LIBRARY.items())
def test_smoothing_is_what_a_library_makes_of_the_same_looks(
    constants: float | tuple[float, float], expected: tuple[float, float, float]
) -> None:
    """Exponential smoothing, and Holt's with a damped trend, digit for digit."""
    smoothers = Smoothers(1, look_s=LOOK_S)
    for place, value in enumerate(RISING):
        smoothers.fold(place * LOOK_S, np.array([float(value)]))
    method = [*LEVELS_S, *TRENDS_S].index(constants)
    told = [float(smoothers.ahead(looks * LOOK_S)[0, method]) for looks in (1, 4, 12)]
    assert told == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("level", [5.0, 40.0, 300.0])
def test_the_announced_error_is_about_the_true_one(level: float) -> None:
    """Neither a fifth nor five times of what it is: head-room is made from it."""
    errors, announced = followed(
        lambda at_s: level * (1.0 + 0.5 * math.sin(2 * math.pi * at_s / DAY_S)), end_s=3 * HOUR_S
    )
    true, said = rms(errors[360:]), rms(announced[360:])
    assert true / 5 < said < true * 5


def test_a_rise_that_goes_on_is_expected_to_go_on_and_a_step_is_not() -> None:
    """By the third look of a climb more is expected than was seen; a step is expected to stay where it is.

    Once the climb has ended the next look says so.
    """

    def climb(at_s: float) -> float:
        return 20.0 + 80.0 * min(1.0, max(0.0, at_s - 600.0) / 40.0)

    def step(at_s: float) -> float:
        return 20.0 if at_s < 600.0 else 60.0

    climbing, stepping = Forecaster((LOOK_S, AHEAD_S)), Forecaster((LOOK_S, AHEAD_S))
    for at_s in np.arange(0.0, 661.0, LOOK_S).tolist():
        climbing.fold(at_s, seen(climb(at_s)))
        stepping.fold(at_s, seen(step(at_s)))
        if at_s == 620.0:
            assert climbing.ahead(1).requests_per_s == pytest.approx(60.0 + 40.0, abs=1.0)
        if at_s >= 600.0:
            assert stepping.ahead(1).requests_per_s == pytest.approx(60.0, rel=0.01)
    assert climbing.ahead(1).requests_per_s == pytest.approx(100.0, rel=0.01)


def test_a_jump_is_known_within_half_a_minute() -> None:
    """A crowd of twice the rate is at the new level after three looks, not after a horizon of judging."""
    errors, _announced = followed(lambda at_s: 40.0 if at_s < 2 * HOUR_S else 80.0, end_s=2 * HOUR_S + 120.0)
    assert rms(errors[-9:]) < 0.12


def test_noise_is_no_jump() -> None:
    """On independent arrivals the level is hardly ever thrown away."""
    errors, _announced = followed(lambda _at_s: 10.0, end_s=4 * HOUR_S)
    assert sum(abs(error) > 0.12 for error in errors[360:]) < len(errors) / 100


def test_a_season_is_known_the_second_time() -> None:
    """A rise that comes every day at eight is expected the next day, before it begins."""

    def course(at_s: float) -> float:
        hour = (at_s % DAY_S) / HOUR_S
        return 10.0 + 30.0 / (1.0 + math.exp(-(hour - 8.0) * 40.0))

    smoothers = Smoothers(1, look_s=60.0)
    for at_s in np.arange(0.0, DAY_S + 7.9 * HOUR_S, 60.0).tolist():
        smoothers.fold(at_s, np.array([course(at_s)]))
    ahead_s = 0.35 * HOUR_S
    expected, wanted = smoothers.ahead(ahead_s)[0], course(DAY_S + 7.9 * HOUR_S + ahead_s)
    seasonal = expected[SEASONAL][np.isfinite(expected[SEASONAL])]
    assert len(seasonal) > 0, "the day before is known"
    assert np.abs(seasonal / wanted - 1.0).min() < 0.25
    assert np.abs(expected[: SEASONAL.start] / wanted - 1.0).min() > 0.4, "no other method can know"


def test_a_season_is_not_used_before_it_was_seen() -> None:
    """A method that knows nothing yet expects infinity, which nobody picks."""
    smoothers = Smoothers(1, look_s=60.0)
    for at_s in np.arange(0.0, DAY_S / BINS_PER_DAY * 5, 60.0).tolist():
        smoothers.fold(at_s, np.array([7.0]))
    expected = smoothers.ahead(60.0)[0]
    assert np.isinf(expected[SEASONAL]).all()
    assert np.isfinite(expected[: SEASONAL.start]).all()


@given(
    rates=st.lists(st.floats(0.0, 500.0), min_size=1, max_size=60),
    steps=st.lists(st.floats(0.1, 300.0), min_size=60, max_size=60),
)
@settings(max_examples=25, deadline=None)
def test_forecasts_are_finite_and_not_negative(rates: list[float], steps: list[float]) -> None:
    """Whatever is observed, at whatever intervals, there is a number to plan with."""
    forecaster, at_s = Forecaster((LOOK_S, AHEAD_S)), 0.0
    for rate, step_s in zip(rates, steps, strict=False):
        forecaster.fold(at_s, seen(rate))
        at_s += step_s
        for horizon in (0, 1):
            ahead = forecaster.ahead(horizon)
            assert 0.0 <= ahead.requests_per_s < 1e4
            assert 0.0 <= ahead.spread.prefill_frac <= 1.0
            assert 0.0 <= ahead.spread.decode_frac <= 1.0


def test_the_same_observations_make_the_same_forecast() -> None:
    """A forecast is a function of what was folded."""
    assert followed(lambda _at_s: 30.0, end_s=600.0) == followed(lambda _at_s: 30.0, end_s=600.0)
