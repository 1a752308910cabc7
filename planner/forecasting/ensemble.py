"""What will be asked for after a while, and how sure that is.

Comes in: demand as observed. Goes out: a forecast of the rate at a horizon with its standard error, and the
mean lengths of requests. Invariant: a function of what was folded. Each method is judged by its own errors at
that very horizon, and the one with the smallest recent square error is taken; the interval is that error,
less what chance alone makes of an observation, since queueing accounts for that. Not here: the methods
(`smoothing`), what a forecast is used for (`planner`).

A jump must not wait until methods have been judged at the horizon: a cumulative sum of what was seen beside
what was expected (E. Page, 1954) finds it within a few looks, and those methods that believe in jumps begin
again at the new level. A rise that goes on is expected to go on (`climbing`).
"""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.forecasting.climbing import Climb
from planner.forecasting.smoothing import CYCLES, METHODS_COUNT, PLAIN_COUNT, Smoothers
from planner.load import Array, Spread
from planner.observation import Demand

MEMORY_HORIZONS = 40.0
"""Errors count for so many horizons: long enough to tell methods apart, short enough to follow the day."""
MEMORY_MIN_S = 1_200.0
"""At least so long, for short horizons."""
FIRST_ERROR_FRAC = 0.1
"""Error of every method before it was judged, as a share of the level: a guess, outweighed after some
looks."""
OUTLIER = 3.0
"""An error counts for at most so many usual ones: a jump in a week must not widen the interval for hours,
while errors that keep coming soon are usual (P. Huber, 1964)."""
JUMP_TRUST = 2.0
"""Just after a jump, methods that do not believe in it must have a record that is better by this factor."""
FIRST_WEIGHT = 2.0
"""Judgements that this guess counts for."""
CUSUM_SLACK = 0.75
"""Deviation in standard errors that is no sign of a jump: half of the smallest jump looked for."""
CUSUM_LIMIT = 6.0
"""Sum at which it is one: by chance once in some ten thousand looks (D. Siegmund's approximation)."""
OUTPUT_SQUARE = 2.0
"""Mean square of output lengths over their squared mean, where it is not measured: that of lengths without
memory."""

SERIES = 3
"""Requests, prompt tokens to compute, output tokens; each per second."""
_EACH = np.arange(SERIES)
Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What is expected at one horizon.

    Attributes:
        requests_per_s: rate.
        prefill_tokens_per_s: prompt tokens to compute.
        decode_tokens_per_s: output tokens.
        spread: standard errors of the work of both roles, as shares of it.
    """

    requests_per_s: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    spread: Spread


class Forecaster:
    """Follows demand; forecasts for fixed horizons."""

    def __init__(self, horizons_s: tuple[float, ...]) -> None:
        """Begin without any observation.

        Args:
            horizons_s: how far ahead will be asked, ascending. A horizon within the window of an observation
                is taken to its end: what lies within was partly seen already and cannot be judged.
        """
        self._smoothers = Smoothers(SERIES, look_s=horizons_s[0])
        self._judges = [_Judge(horizon_s) for horizon_s in horizons_s]
        self._above, self._below = np.zeros(SERIES), np.zeros(SERIES)
        self._climb = Climb(SERIES)
        self._at_s: float | None = None

    def fold(self, at_s: float, demand: Demand) -> None:
        """Take what was observed; an observation that is not later than the last one brings nothing new."""
        if self._at_s is not None and at_s <= self._at_s:
            return
        values = demand.requests_per_s * np.array([1.0, demand.uncached_tokens, demand.output_tokens])
        noise, rises = _chance(demand, values), False
        if self._at_s is not None:
            rises, falls = self._jumps(at_s - self._at_s, demand.window_s, values, noise)
            if rises or falls:
                self._smoothers.jump(values)
            if rises:
                for judge in self._judges:
                    judge.trust_jumps(at_s)
        self._climb.fold(at_s, values, rises=rises)
        for judge in self._judges:
            judge.fold(at_s, values, noise)
        self._smoothers.fold(at_s, values)
        for judge in self._judges:
            judge.expect(at_s, demand.window_s, self._smoothers)
        self._at_s = at_s

    def aim(self, horizon: int, after_s: float) -> None:
        """Move a horizon; what was expected of it before is still judged, where it was aimed at then."""
        self._judges[horizon].aim(after_s)

    def ahead(self, horizon: int) -> Forecast:
        """Forecast for the horizon of that number."""
        judge = self._judges[horizon]
        best = judge.best(judge.expected)
        values = judge.expected[_EACH, best]
        return self._forecast(judge, best, values, at_least=self._climb.at_least(judge.ahead_s))

    @property
    def season_s(self) -> float | None:
        """Length of the season that was found; None while there is none."""
        return self._smoothers.season_s

    def most_within(self, horizon: int) -> Forecast | None:
        """Say what is expected at most until the horizon; None where no season tells what lies between."""
        judge = self._judges[horizon]
        best = judge.best(judge.expected)
        between = self._smoothers.most_within(judge.ahead_s) if best[0] == CYCLES else None
        if between is None:
            return None
        values = np.maximum(judge.expected[_EACH, best], between)
        return self._forecast(judge, best, values, at_least=self._climb.at_least(judge.ahead_s))

    def _forecast(self, judge: "_Judge", best: Places, values: Array, *, at_least: Array) -> Forecast:
        errors = judge.error(best) / np.maximum(values, 1e-9)
        values = np.maximum(values, at_least)
        return Forecast(
            requests_per_s=float(values[0]),
            prefill_tokens_per_s=float(values[1]),
            decode_tokens_per_s=float(values[2]),
            spread=Spread(prefill_frac=float(min(1.0, errors[1])), decode_frac=float(min(1.0, errors[2]))),
        )

    def _jumps(self, dt_s: float, window_s: float, values: Array, noise: Array) -> tuple[bool, bool]:
        """Tell whether the load has jumped up, and down, beyond what is usual."""
        judge, expected = self._judges[0], self._smoothers.ahead(dt_s)
        best = judge.best(expected)
        # Windows that overlap bring less news than their number says.
        news = math.sqrt(min(1.0, dt_s / max(window_s, 1e-9)))
        error = np.sqrt(noise + judge.error(best) ** 2 + 1e-12)
        deviation = news * (values - expected[_EACH, best]) / error
        self._above = np.maximum(0.0, self._above + deviation - CUSUM_SLACK)
        self._below = np.maximum(0.0, self._below - deviation - CUSUM_SLACK)
        rises, falls = self._above.max() > CUSUM_LIMIT, self._below.max() > CUSUM_LIMIT
        if rises or falls:
            self._above[:], self._below[:] = 0.0, 0.0
        return bool(rises), bool(falls)


class _Judge:
    """Errors of all methods at one horizon."""

    def __init__(self, horizon_s: float) -> None:
        self._horizon_s = self.ahead_s = horizon_s
        self._waiting: deque[tuple[float, Array]] = deque()
        self._squares = np.zeros((SERIES, METHODS_COUNT))
        self._weights = np.zeros(METHODS_COUNT)
        self._chance = np.zeros(SERIES)
        self._floor = np.zeros((SERIES, METHODS_COUNT))
        self._last_s: float | None = None
        self._at_s = 0.0
        self._trusted_s = -math.inf
        self.expected = np.zeros((SERIES, METHODS_COUNT))
        """Of each method, for `ahead_s` from the last observation."""

    def aim(self, horizon_s: float) -> None:
        """Expect another moment from the next observation on."""
        self._horizon_s = horizon_s

    def trust_jumps(self, at_s: float) -> None:
        """Until a rise can be judged, methods that followed it are believed unless their record is bad.

        A fall is not: being late to see it costs a little, to see one that is none costs requests.
        """
        self._trusted_s = at_s + 1.5 * self.ahead_s

    def expect(self, at_s: float, window_s: float, smoothers: Smoothers) -> None:
        """Remember what is expected."""
        self._at_s = at_s
        self.ahead_s = max(self._horizon_s, window_s)
        self.expected = smoothers.ahead(self.ahead_s)
        self._floor[:, :] = np.outer(self._chance, smoothers.echo(window_s))
        self._waiting.append((at_s + self.ahead_s, self.expected))

    def fold(self, at_s: float, values: Array, noise: Array) -> None:
        """Judge what had been expected for now."""
        if self._last_s is None:
            self._squares[:, :] = (FIRST_WEIGHT * (FIRST_ERROR_FRAC * values) ** 2)[:, None]
            self._weights[:] = FIRST_WEIGHT
            self._chance[:], self._last_s = noise, at_s
        due: Array | None = None
        while self._waiting and self._waiting[0][0] <= at_s + 1e-6:
            _moment, due = self._waiting.popleft()
        if due is None:
            return
        memory_s = max(MEMORY_MIN_S, MEMORY_HORIZONS * self.ahead_s)
        keep = math.exp(-(at_s - self._last_s) / memory_s)
        self._last_s = at_s
        is_known = np.isfinite(due[0])
        errors = np.where(is_known, due, 0.0) - values[:, None]
        usual = self._squares / np.maximum(self._weights, 1e-9)
        squares = np.minimum(errors * errors, OUTLIER * OUTLIER * (usual + self._chance[:, None]))
        self._weights = np.where(is_known, self._weights * keep + 1.0, self._weights)
        self._squares = np.where(is_known, self._squares * keep + squares, self._squares)
        self._chance += (1.0 - keep) * (noise - self._chance)

    def best(self, expected: Array) -> Places:
        """The method with the smallest recent error among those that know; shape [series].

        The same for all series, each error counting beside the least of its series: the ratio of two
        forecasts is a length only if both remember the same requests.
        """
        means = np.where(np.isfinite(expected), self._squares / np.maximum(self._weights, 1e-9), math.inf)
        if self._at_s <= self._trusted_s:
            means[:, PLAIN_COUNT:] *= JUMP_TRUST
        least = np.maximum(means.min(axis=1, keepdims=True), 1e-12)
        return np.full(SERIES, np.argmin((means / least).sum(axis=0)))

    def error(self, best: Places) -> Array:
        """Standard error of these methods beyond the chance of an observation; shape [series].

        At least what the observations' chance leaves in the forecast itself.
        """
        means = self._squares[_EACH, best] / np.maximum(self._weights[best], 1e-9)
        return np.asarray(np.sqrt(np.maximum(self._floor[_EACH, best], means - self._chance)))


def _chance(demand: Demand, values: Array) -> Array:
    """Variance that independent requests alone make of each observed rate; shape [series].

    A sum over a Poisson number of requests has the variance rate x mean square / window.
    """
    count = max(demand.requests_per_s * demand.window_s, 1.0)
    uncached = max(1.0, demand.uncached_square_tokens / max(demand.uncached_tokens, 1e-9) ** 2)
    output = OUTPUT_SQUARE
    if demand.output_square_tokens > 0.0:
        output = max(1.0, demand.output_square_tokens / max(demand.output_tokens, 1e-9) ** 2)
    variation = np.array([1.0, uncached, output]) + (demand.dispersion - 1.0)
    return np.asarray(values * values * variation / count)
