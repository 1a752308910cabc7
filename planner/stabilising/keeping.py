"""For how long a worker is kept that is not needed.

Comes in: needs over time. Goes out: what to keep. Invariant: never less than what is needed now.
Not here: the needs themselves (`sizing`), who is started or stopped (`arranging`).

A worker that is not needed costs its price by the second; one that is given back and missed costs a start.
Keeping it for exactly as long as a start takes, and not longer, costs at most twice what foresight would
(rent or buy: Karlin, Manasse, Rudolph and Sleator, 1988), whatever the load does. The k-th worker is needed
whenever at least k are, so the number to keep is the largest need within that time. Where the error budget
is overdrawn, a start costs late requests that are not there to spend: the time grows by as much as the
budget is overdrawn.
"""

from collections import deque
from collections.abc import Sequence

from planner.sizing.needs import Needs


class Keeping:
    """The largest of the last values."""

    def __init__(self) -> None:
        """Begin without a value."""
        self._falling: deque[tuple[float, int]] = deque()

    def fold(self, at_s: float, value: int, *, keep_s: float, keep_max_s: float) -> int:
        """Take a value; returns the largest of the last `keep_s`.

        Args:
            at_s: moment, not before the last one.
            value: of this moment.
            keep_s: for how long a value counts now.
            keep_max_s: no value ever counts for longer.
        """
        while self._falling and self._falling[-1][1] <= value:
            self._falling.pop()
        self._falling.append((at_s, value))
        while self._falling[0][0] < at_s - keep_max_s:
            self._falling.popleft()
        return next(kept for moment, kept in self._falling if moment >= at_s - keep_s)


class NeedsKeeping:
    """What to keep of both roles together and of each: whom one role spares may do for the other."""

    def __init__(self) -> None:
        """Begin without any need."""
        self._total, self._prefill, self._decode = Keeping(), Keeping(), Keeping()

    def fold(
        self, at_s: float, needed: Sequence[Needs], *, keep_s: float, keep_max_s: float
    ) -> tuple[int, int, int]:
        """Take the needs of a moment, the largest of which counts.

        Args:
            at_s: moment, not before the last one.
            needed: now, and at moments to come; one at least.
            keep_s: as of `Keeping.fold`.
            keep_max_s: likewise.

        Returns:
            Workers to keep of both roles, prefill and decode.
        """
        total, prefill, decode = (
            keeping.fold(at_s, value, keep_s=keep_s, keep_max_s=keep_max_s)
            for keeping, value in (
                (self._total, max(needs.total for needs in needed)),
                (self._prefill, max(needs.prefill for needs in needed)),
                (self._decode, max(needs.decode for needs in needed)),
            )
        )
        return total, prefill, decode
