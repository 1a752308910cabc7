"""A season that nobody named: found in what was seen, and continued.

Comes in: observed rates of several series. Goes out: what is expected after a while if the season goes on, or
that there is none. Invariant: a function of what was folded; a period is believed only if it was seen twice
and explains most of the variance. Not here: days and weeks, whose length is known (`smoothing`), whether the
season is the best forecast (`forecasting`).

Periods are peaks of the autocorrelation (G. Box and G. Jenkins, 1970), by fast Fourier transform, in windows
of doubling length: a season that has just begun is found in a short one, a faint one in a long one. On
independent looks it varies as the inverse of the looks compared; what that reaches by chance is no peak.
Each period found is then tried on the last cycle: of those whose earlier cycles, as many as do it best, would
have told the last one, the closest is taken.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.load import Array

PERIOD_LOOKS_MIN = 6
"""Fewest looks in a period: with fewer its shape is not seen."""
WINDOWS = tuple(48 * 2**octave for octave in range(6))
"""Looks in which a period is looked for. The longest is what is remembered: four hours of looks every ten
seconds."""
EXPLAINED_MIN_FRAC = 0.5
"""Least share of the variance that a season explains: most of it."""
CHANCE = 4.5
"""Standard errors that chance does not reach: once in some days of looks, all lags together."""
TRIED_LOOKS = 8
"""Looks after which the season is tried anew."""
SEARCHED_FRAC = 1 / 6
"""A window is searched again after so much of its length."""
SAME_FRAC = 0.1
"""A period that changes by less is the same season, better known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A season that is believed.

    Attributes:
        period: its length, in looks.
        cycles: before the last one that are taken the mean of.
        cycles_max: that were there to choose from.
    """

    period: float
    cycles: int
    cycles_max: int


class Cycles:
    """The last looks, and the season found in them."""

    def __init__(self, look_s: float, series_count: int) -> None:
        """Begin without any observation.

        Args:
            look_s: usual time between two looks.
            series_count: observed together.
        """
        self._look_s = look_s
        self._seen = np.zeros((series_count, 2 * WINDOWS[-1]))
        self._end = 0
        self._place: int | None = None
        self._looks = 0
        self._season: Found | None = None
        self._believed_looks = 0

    @property
    def period_s(self) -> float | None:
        """Length of the season; None while none is believed."""
        return None if self._season is None else self._season.period * self._look_s

    @property
    def cycles_count(self) -> int:
        """Cycles of which a forecast is the mean, at least 1."""
        return 1 if self._season is None else self._season.cycles

    def fold(self, at_s: float, values: Array) -> None:
        """Take an observation, shape [series]; looks missed before it are taken to have been the same."""
        place = round(at_s / self._look_s)
        passed = WINDOWS[-1] if self._place is None else place - self._place
        if passed >= WINDOWS[-1]:
            self._end, passed, self._season = 0, 1, None
        self._place = place
        for _ in range(passed):
            self._append(values)
        self._looks += 1
        self._believed_looks += 1
        if self._looks % TRIED_LOOKS == 0:
            self._choose()

    def ahead(self, after_s: float) -> Array:
        """Say what is expected; shape [series], infinity while no season is known."""
        if self._season is None:
            return np.full(len(self._seen), math.inf)
        return self._course(self._season, np.array([after_s]))[:, 0]

    def most_within(self, after_s: float) -> Array | None:
        """Say what is expected at most until then; shape [series].

        None before a whole cycle has come since the season was found: two that are alike may be chance.
        """
        season = self._season
        if season is None or self._believed_looks < season.period:
            return None
        looks = np.arange(math.ceil(after_s / self._look_s) + 1, dtype=np.float64)
        return np.asarray(self._course(season, looks * self._look_s).max(axis=1))

    def _append(self, values: Array) -> None:
        if self._end == self._seen.shape[1]:
            half = WINDOWS[-1]
            self._seen[:, :half] = self._seen[:, half:]
            self._end = half
        self._seen[:, self._end] = values
        self._end += 1

    def _course(self, season: Found, after_s: Array) -> Array:
        """What is expected at moments from now; shape [series, moments]."""
        after = after_s / self._look_s
        first = np.maximum(1.0, np.ceil(after / season.period))
        return np.asarray(
            self._at(after - season.period * (first + np.arange(season.cycles)[:, None])).mean(axis=1)
        )

    def _at(self, after: Array) -> Array:
        """What was seen at moments, looks from now and not later, by straight lines; shape [series, ...]."""
        place = np.clip(self._end - 1 + after, 0.0, self._end - 1.0)
        low = place.astype(np.intp)
        share = place - low
        high = np.minimum(low + 1, self._end - 1)
        return np.asarray((1.0 - share) * self._seen[:, low] + share * self._seen[:, high])

    def _choose(self) -> None:
        """Look for the season whose cycles would have told the last one best."""
        before = self._season
        found = [] if before is None else [(before.period, before.cycles_max)]
        for window in WINDOWS:
            if window <= self._end and self._looks % round(SEARCHED_FRAC * window) == 0:
                explained = explained_frac(self._seen[:, self._end - window : self._end])
                lag = peak(explained, window)
                if lag is not None:
                    period = finer(explained, lag)
                    found.append((period, max(1, int(window / period) - 1)))
        least, self._season = 1.0 - EXPLAINED_MIN_FRAC, None
        for period, most in found:
            left, cycles = self._tried(period, most)
            if left < least:
                least, self._season = left, Found(period=period, cycles=cycles, cycles_max=most)
        if before is None or self._season is None or not same(before, self._season):
            self._believed_looks = 0

    def _tried(self, period: float, cycles_max: int) -> tuple[float, int]:
        """Try a period, in looks, on the last cycle.

        Returns:
            Share of the variance that the mean of the cycles before it leaves, and of how many of them.
        """
        looks = -np.arange(round(period), dtype=np.float64)
        counts = np.arange(1, cycles_max + 1)
        last = self._at(looks)
        before = self._at(looks - period * counts[:, None])
        means = np.cumsum(before, axis=1) / counts[:, None]
        level = np.maximum(last.mean(axis=1, keepdims=True), 1e-9)
        variance = float((((last - level) / level) ** 2).sum())
        errors = (((means - last[:, None]) / level[:, None]) ** 2).sum(axis=(0, 2))
        best = int(errors.argmin())
        return float(errors[best]) / max(variance, 1e-9), best + 1


def same(before: Found, after: Found) -> bool:
    """Whether two are one season, of which the period has become better known."""
    return abs(after.period - before.period) <= SAME_FRAC * before.period


def explained_frac(seen: Array) -> Array:
    """Share of the variance that a repetition after each lag explains, beyond a trend.

    Args:
        seen: shape [series, looks].

    Returns:
        Shape [lags], lags from 0 to half of the looks; all series together, each beside its mean.
    """
    looks = seen.shape[1]
    scaled = seen / np.maximum(seen.mean(axis=1, keepdims=True), 1e-9)
    place = np.arange(looks) - (looks - 1) / 2.0
    slope = scaled @ place / (place @ place)
    rest = scaled - scaled.mean(axis=1, keepdims=True) - slope[:, None] * place
    spectrum = np.abs(np.fft.rfft(rest, 2 * looks, axis=1)) ** 2
    lags = looks // 2 + 1
    products = np.fft.irfft(spectrum.sum(axis=0))[:lags]
    squares = np.concatenate(([0.0], np.cumsum((rest * rest).sum(axis=0))))
    both = squares[looks : looks - lags : -1] + squares[-1] - squares[:lags]
    return np.asarray(2.0 * products / np.maximum(both, 1e-12))


def peak(explained: Array, looks: int) -> int | None:
    """Find the lag of the season, if there is one.

    Of all peaks behind a lag that explains nothing, the one by which the mean of the cycles seen leaves
    least: what no cycle explains, and what is a cycle's own.
    """
    lags = np.arange(1, explained.size - 1)
    inner = explained[1:-1]
    least = np.maximum(EXPLAINED_MIN_FRAC, CHANCE / np.sqrt(looks - lags))
    is_peak: NDArray[np.bool_] = (inner >= explained[:-2]) & (inner > explained[2:]) & (inner > least)
    is_peak &= (np.minimum.accumulate(inner) < 0.0) & (lags >= PERIOD_LOOKS_MIN)
    left = np.where(is_peak, (1.0 - inner) * (1.0 + lags / looks), np.inf)
    return int(lags[left.argmin()]) if is_peak.any() else None


def finer(explained: Array, lag: int) -> float:
    """Tell a period finer than looks: by parabolas through the peaks of ever more periods."""
    period, times = float(lag), 1
    while (place := round(times * period)) < explained.size - 1:
        low, middle, high = explained[place - 1 : place + 2].tolist()
        if middle < max(low, high) or low + high >= 2.0 * middle:
            break
        period = (place + 0.5 * (high - low) / (2.0 * middle - low - high)) / times
        times *= 2
    return period
