"""Which prompt goes first: short ones and those that waited, but for those whose time is about to run out.

Comes in: prompts' prefill times and ages, what TTFT became of those before. Goes out: a rank in seconds.
Shortest first gives the least mean and leaves the long ones behind. So a prefill time is divided by its
response ratio (`services.domain.aging`), as in a live cluster's queue. And the queue works towards two times:
the target, and the 95th percentile of TTFT that the cluster itself has at present. What can still meet the
target but not for much longer, and a long prompt that can still meet the percentile but not for much longer,
goes as if it were short. Where more than 95 of 100 are in time the percentile falls, until just five are
beyond: it finds by itself how short the tail can be kept.
Invariant: whatever waits long enough goes first. Not here: who takes a prompt (`baton`).
"""

from services.domain.aging import aged_s
from services.domain.quantiles import FollowedQuantile

TAIL_FRAC = 0.05
"""Share of prompts whose TTFT may be beyond the time that the queue works towards: TTFT is commonly judged by
its 95th percentile."""
LEAST_FRAC = 0.01
"""Share of the target that this time is at least, and at first: it rises faster than it falls."""
SOON_FRAC = 0.4
"""Share of that percentile that may be left to a long prompt that no longer waits for shorter ones."""
LONG_FRAC = 0.1
"""Share of that percentile which a prompt must take by itself to be one of those that make it. Where the tail
is made of waiting instead, serving first whatever has waited long makes all wait longer."""
LATE_FRAC = 0.25
"""Share of the target that may be left to a prompt that no longer waits for shorter ones; a prompt that
cannot meet the target stands behind others by as much."""
SOON_FACTOR = 0.03
"""A prompt whose time is about to run out counts as so much shorter: only the shortest still go before it."""
OVERDUE_FACTOR = 5
"""Targets after which a prompt goes before all that waited less, however long it is."""


class QueueOrder:
    """Orders one queue."""

    def __init__(self, ttft_slo_s: float) -> None:
        """Know of no TTFT."""
        self._target_s = ttft_slo_s
        least_s = LEAST_FRAC * ttft_slo_s
        self._tail = FollowedQuantile(beyond_frac=TAIL_FRAC, value=least_s, least=least_s, most=ttft_slo_s)

    def fold(self, ttft_s: float) -> None:
        """Learn of a prompt that is computed, so long after it arrived."""
        self._tail.fold(ttft_s)

    def rank_s(self, prefill_s: float, age_s: float) -> float:
        """Rank a prompt that waits; the least goes first.

        Args:
            prefill_s: what its prefill takes, > 0.
            age_s: since it arrived.
        """
        if age_s > OVERDUE_FACTOR * self._target_s:
            return -age_s
        left_s = self._target_s - age_s - prefill_s
        tail_s = self._tail.value
        is_long = prefill_s > LONG_FRAC * tail_s
        is_tail = is_long and 0 <= tail_s - age_s - prefill_s < SOON_FRAC * tail_s
        if left_s < 0:
            rank_s = prefill_s + LATE_FRAC * self._target_s
        elif left_s < LATE_FRAC * self._target_s or is_tail:
            rank_s = SOON_FACTOR * prefill_s
        else:
            rank_s = prefill_s
        return aged_s(rank_s, prefill_s, age_s)
