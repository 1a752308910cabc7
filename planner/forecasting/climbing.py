"""A rise that goes on from look to look: how far it will go.

Comes in: what was seen, and whether it was a jump up. Goes out: what to expect at least. Invariant: nothing
is expected of a single jump beyond its new level, so a step is not taken for a climb. Not here: what a jump
is (`ensemble`).

Nothing is known of a rise but how long it has lasted. Whatever its true length, it is met at a moment that is
even over that length, so in the middle it lasts as long again as it has lasted (J. Gott, 1993). Seen too high
costs the start of some workers, which are called off at the first look that shows its end; seen too low costs
requests for as long as a start takes.
"""

import numpy as np

from planner.load import Array

LOOKS_LEAST = 2
"""Jumps at as many looks in a row are a climb."""


class Climb:
    """The rise under way, if there is one."""

    def __init__(self, series_count: int) -> None:
        """Begin on the level.

        Args:
            series_count: observed together.
        """
        self._foot = self._last = np.zeros(series_count)
        self._foot_s = self._last_s = 0.0
        self._looks = 0

    def fold(self, at_s: float, values: Array, *, rises: bool) -> None:
        """Take what was seen.

        Args:
            at_s: moment, later than the one before.
            values: shape [series].
            rises: whether it was a jump up.
        """
        if rises and self._looks == 0:
            self._foot, self._foot_s = self._last, self._last_s
        self._looks = self._looks + 1 if rises else 0
        self._last, self._last_s = values, at_s

    def at_least(self, after_s: float) -> Array:
        """Say what is to be expected after a while at least; shape [series], 0 where nothing climbs."""
        if self._looks < LOOKS_LEAST:
            return np.zeros_like(self._last)
        lasted_s = self._last_s - self._foot_s
        slope = np.maximum(0.0, self._last - self._foot) / lasted_s
        return np.asarray(self._last + slope * min(after_s, lasted_s))
