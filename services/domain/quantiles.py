"""A quantile followed as values come, without keeping any of them.

Comes in: values > 0. Goes out: the value that a given share of them lies beyond.
Form: stochastic approximation (H. Robbins, S. Monro, 1951) of its logarithm: up by `STEP` times (1 - share)
when a value is beyond it, else down by `STEP` times share. That settles where just the share is beyond,
whatever the distribution is, and it forgets.
Invariant: it stays within its bounds; one value moves it by a bounded step. Not here: what it is used for.
"""

from dataclasses import dataclass
from math import exp

STEP = 0.02
"""Width of a step. With half of the values beyond, forty of them move a low quantile by a third; in balance
it stays within a few percent of its place. Larger ones follow faster and scatter more."""


@dataclass(slots=True, kw_only=True)
class FollowedQuantile:
    """One quantile.

    Attributes:
        beyond_frac: share of values that are to lie beyond it, in (0, 1].
        value: where it is now, > 0.
        least: it never goes below.
        most: it never goes above.
    """

    beyond_frac: float
    value: float
    least: float
    most: float

    def fold(self, seen: float) -> None:
        """Take a value."""
        step = STEP * (1.0 - self.beyond_frac if seen > self.value else -self.beyond_frac)
        self.value = min(max(self.value * exp(step), self.least), self.most)
