"""Forecasts of one moment, many at once: last value, smoothed, with trend, with seasons.

Comes in: observed rates of several series at irregular times. Goes out: what each method expects after a
while.
Invariant: a function of what was folded; a method that has not seen enough yet expects infinity, which nobody
picks. Not here: which method to believe (`ensemble`).

Methods, all by published recursions, with time constants so that looks may come at any interval (the weight
of an observation after dt is 1 - exp(-dt / constant)):

- last value: the random walk's best forecast;
- simple exponential smoothing (R. G. Brown, 1956);
- linear trend (C. C. Holt, 1957), damped (Gardner and McKenzie, 1985): the trend dies out with the constant
  by which it was learned;
- seasonal (P. R. Winters, 1960), multiplicative: the level of what is left when divided by the profile of the
  season before, at the present level. Profiles are kept for a day and for a week;
- cyclical: the mean of the cycles before at the same phase, of a period found in the data (`cycles`).
"""

import math
from typing import TypeVar

import numpy as np

from planner.forecasting.cycles import Cycles
from planner.load import Array

LEVELS_S = (0.0, 20.0, 45.0, 90.0, 180.0, 600.0, 1800.0)
"""Constants of smoothing; 0 is the last value."""
TRENDS_S = ((30.0, 60.0), (60.0, 180.0), (120.0, 360.0), (300.0, 900.0), (900.0, 3600.0))
"""Constants of level and trend."""
SEASONS_S = (86_400.0, 604_800.0)
"""A day and a week."""
SEASON_LEVELS_S = (120.0, 900.0)
"""Constants of the level beside a season."""
BINS_PER_DAY = 144
"""Ten minutes each: finer than any plan changes with a season, coarse enough to average chance out."""
PROFILE_KEEP = 0.5
"""Weight of all seasons before the last one."""
INTERVALS_MAX = 256
"""Intervals between looks for which weights are kept; they are computed again beyond."""

T = TypeVar("T")

PLAIN_COUNT = len(LEVELS_S) + len(TRENDS_S)
METHODS_COUNT = 2 * PLAIN_COUNT + len(SEASONS_S) * len(SEASON_LEVELS_S) + 1
"""All methods without a season come twice: those that follow a jump at once, and those that do not believe in
jumps. On a restless load the second kind is right."""
CYCLES = METHODS_COUNT - 1
"""Place of the season that was found."""


class Smoothers:
    """All methods, side by side, for several series."""

    def __init__(self, series_count: int, *, look_s: float) -> None:
        """Begin without any observation.

        Args:
            series_count: observed together.
            look_s: usual time between two observations.
        """
        self._level_s = np.array([*LEVELS_S, *(level for level, _trend in TRENDS_S)] * 2)
        self._trend_s = np.array(([math.inf] * len(LEVELS_S) + [trend for _level, trend in TRENDS_S]) * 2)
        self._has_trend = np.isfinite(self._trend_s)
        shape = (series_count, len(self._level_s))
        self._levels = np.zeros(shape)
        self._trends = np.zeros(shape)
        self._seasons = [Season(period_s, series_count) for period_s in SEASONS_S]
        self._cycles = Cycles(look_s, series_count)
        self._at_s: float | None = None
        self._gains: dict[float, tuple[Array, Array, Array]] = {}
        self._reaches: dict[float, Array] = {}
        self._echoes: dict[float, Array] = {}

    def fold(self, at_s: float, values: Array) -> None:
        """Take an observation.

        Args:
            at_s: moment, later than the one before.
            values: shape [series].
        """
        seen = values[:, None]
        if self._at_s is None:
            self._levels[:] = seen
        else:
            dt = max(1e-3, at_s - self._at_s)
            gain, trend_gain, fade = self._gain(dt)
            expected = self._levels + self._trends * self._reach(dt)
            error = seen - expected
            self._levels = np.maximum(0.0, expected + gain * error)
            self._trends = self._trends * fade + trend_gain * error
        for season in self._seasons:
            season.fold(at_s, values)
        self._cycles.fold(at_s, values)
        self._at_s = at_s

    def jump(self, values: Array) -> None:
        """Let the methods that believe in jumps begin again at new values, shape [series]."""
        self._levels[:, :PLAIN_COUNT] = values[:, None]
        self._trends[:, :PLAIN_COUNT] = 0.0

    def ahead(self, after_s: float) -> Array:
        """Say what each method expects; shape [series, methods], >= 0, infinity where it does not know."""
        plain = np.maximum(0.0, self._levels + self._trends * self._reach(after_s))
        seasons = [season.ahead(after_s) for season in self._seasons]
        return np.concatenate([plain, *seasons, self._cycles.ahead(after_s)[:, None]], axis=1)

    @property
    def season_s(self) -> float | None:
        """Length of the season that was found; None while there is none."""
        return self._cycles.period_s

    def most_within(self, after_s: float) -> Array | None:
        """Say what the season that was found has at most until then; shape [series]; None if none is sure."""
        return self._cycles.most_within(after_s)

    def echo(self, window_s: float) -> Array:
        """Share of an observation's chance that is still in each method's forecast; shape [methods].

        Of exponential smoothing: the window over twice the constant and the window. A trend doubles it. Of
        cycles: one of all.
        """
        known = self._echoes.get(window_s)
        if known is None:
            constants = np.concatenate([self._level_s, np.tile(SEASON_LEVELS_S, len(SEASONS_S))])
            shares = window_s / (2.0 * constants + window_s)
            shares[: 2 * PLAIN_COUNT] *= np.where(self._has_trend, 2.0, 1.0)
            known = _kept(self._echoes, window_s, np.minimum(1.0, shares))
        return np.append(known, 1.0 / self._cycles.cycles_count)

    def _gain(self, dt: float) -> tuple[Array, Array, Array]:
        """Weights of an error in level and trend, and what is left of a trend."""
        known = self._gains.get(dt)
        if known is None:
            gain = 1.0 - np.exp(-dt / np.maximum(self._level_s, 1e-9))
            fade = np.where(self._has_trend, np.exp(-dt / self._trend_s), 0.0)
            trend_gain = np.where(self._has_trend, (1.0 - fade) * gain / dt, 0.0)
            known = _kept(self._gains, dt, (gain, trend_gain, fade))
        return known

    def _reach(self, after_s: float) -> Array:
        """Seconds for which a trend counts, dying out with its constant."""
        known = self._reaches.get(after_s)
        if known is None:
            constants = np.where(self._has_trend, self._trend_s, 1.0)
            reach = np.where(self._has_trend, constants * (1.0 - np.exp(-after_s / constants)), 0.0)
            known = _kept(self._reaches, after_s, reach)
        return known


def _kept(memory: dict[float, T], key: float, value: T) -> T:
    """Keep a value for an interval that will come again; bounded, since intervals may be any."""
    if len(memory) >= INTERVALS_MAX:
        memory.clear()
    memory[key] = value
    return value


class Season:
    """The profile of one period, and levels beside it."""

    def __init__(self, period_s: float, series_count: int) -> None:
        """Begin without a profile.

        Args:
            period_s: length of the season.
            series_count: observed together.
        """
        self._period_s = period_s
        self._bin_s = 86_400.0 / BINS_PER_DAY
        bins = round(period_s / self._bin_s)
        self._profile = np.zeros((bins, series_count))
        self._is_known = np.zeros(bins, dtype=np.bool_)
        self._bin: int | None = None
        self._sum = np.zeros(series_count)
        self._count = 0
        self._constants = np.array(SEASON_LEVELS_S)
        self._ratios = np.ones((series_count, len(SEASON_LEVELS_S)))
        self._at_s = 0.0

    def fold(self, at_s: float, values: Array) -> None:
        """Take an observation; values have shape [series]."""
        place = int(at_s / self._bin_s) % len(self._profile)
        if place != self._bin:
            self._close()
            self._bin = place
        self._sum += values
        self._count += 1
        base = self._at(at_s)
        if base is not None:
            gain = 1.0 - np.exp(-max(1e-3, at_s - self._at_s) / self._constants)
            seen = (values / np.maximum(base, 1e-9))[:, None]
            self._ratios += gain * (np.clip(seen, 0.0, 100.0) - self._ratios)
        self._at_s = at_s

    def ahead(self, after_s: float) -> Array:
        """Say what is expected; shape [series, levels], infinity while the season was never seen."""
        base = self._at(self._at_s + after_s) if self._at(self._at_s) is not None else None
        if base is None:
            return np.full(self._ratios.shape, math.inf)
        return np.asarray(self._ratios * base[:, None])

    def _close(self) -> None:
        if self._bin is None or self._count == 0:
            return
        mean, keep = self._sum / self._count, PROFILE_KEEP if self._is_known[self._bin] else 0.0
        self._profile[self._bin] = keep * self._profile[self._bin] + (1.0 - keep) * mean
        self._is_known[self._bin] = True
        self._sum = np.zeros_like(self._sum)
        self._count = 0

    def _at(self, at_s: float) -> Array | None:
        """Profile at a moment, shape [series], by straight lines between bins; None where it is not known.

        A bin is known from the first pass on, but means something only where the next ones are known too.
        """
        bins = len(self._profile)
        place = at_s / self._bin_s - 0.5
        low = math.floor(place)
        share, first, second = place - low, low % bins, (low + 1) % bins
        if not (self._is_known[first] and self._is_known[second]):
            return None
        return np.asarray((1.0 - share) * self._profile[first] + share * self._profile[second])
