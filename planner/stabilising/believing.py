"""How far the model is believed: late requests that it said, beside those that came.

Comes in: both, at each look. Goes out: a factor. The model is told forecasts with their doubt and takes what
it does not know for the worse, so on most loads fewer requests are late than it says, on some more. The error
budget would find that out as well, but by what the plan costs or loses over its long memory; here every look
tells. Invariant: a function of what was folded, within its bounds; nothing is believed of few late requests.
Not here: the model (`sizing`), what the targets allow (`error_budget`).
"""

import math

KNOWN_COUNT = 40.0
"""Late requests for which the model is taken to be right before any were compared: a share counted by so many
is known to a sixth of itself."""
FACTOR_MAX = 4.0
"""Most that the model is taken to be wrong by, in either direction."""


class ModelRecord:
    """Folds said and seen late requests into a factor."""

    def __init__(self, memory_s: float) -> None:
        """Believe the model.

        Args:
            memory_s: time after which what was compared counts for 1/e.
        """
        self._memory_s = memory_s
        self._said_count = self._seen_count = 0.0
        self._at_s: float | None = None

    def fold(self, at_s: float, *, said_frac: float, seen_frac: float, requests_per_s: float) -> None:
        """Take a look.

        Args:
            at_s: moment, not before the last one.
            said_frac: share of requests that the model says are late with the workers there are.
            seen_frac: share that was.
            requests_per_s: arrivals.
        """
        if self._at_s is not None:
            dt_s = at_s - self._at_s
            fade, count = math.exp(-dt_s / self._memory_s), requests_per_s * dt_s
            self._said_count = self._said_count * fade + said_frac * count
            self._seen_count = self._seen_count * fade + seen_frac * count
        self._at_s = at_s

    @property
    def factor(self) -> float:
        """Say how many times more late requests the model says than come."""
        factor = (self._said_count + KNOWN_COUNT) / (self._seen_count + KNOWN_COUNT)
        return min(FACTOR_MAX, max(1.0 / FACTOR_MAX, factor))
