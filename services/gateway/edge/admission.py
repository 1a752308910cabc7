"""Bounded admission: how many sequences are in flight, and when to come back if there are too many.

Comes in: calls that begin and end. Goes out: a place, or `Saturated` with a computed `Retry-After`.
Invariant: admitted sequences never exceed the bound; every place is given back.
Not here: limits per caller.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from services.domain.errors import NotReady, Saturated
from services.runtime.clock import Clock

RETRY_AFTER_MIN_S = 1.0
RETRY_AFTER_MAX_S = 60.0
"""`Retry-After` stays in these: shorter cannot be said in whole seconds, longer is a guess."""

_ENDINGS_KEPT = 128
"""Recent endings from which the rate is taken."""


def estimate_retry_after_s(needed_count: int, endings_s: "deque[float]", now_s: float) -> float:
    """Estimate when enough places will be free: places needed over the recent rate of endings.

    Args:
        needed_count: places that must become free, >= 1.
        endings_s: moments at which places became free, oldest first.
        now_s: by the same clock.

    Returns:
        Seconds within [RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S]; the minimum when nothing is known yet.
    """
    if not endings_s:
        return RETRY_AFTER_MIN_S
    span_s = max(now_s - endings_s[0], 1e-3)
    return min(max(needed_count * span_s / len(endings_s), RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S)


class Places:
    """The places of one call."""

    def __init__(self, admission: "Admission") -> None:
        self._admission = admission
        self.count = 0

    def take(self, count: int) -> None:
        """Take more places.

        Raises:
            Saturated: there are not so many.
        """
        self._admission.take(count)
        self.count += count


class Admission:
    """Counts the sequences in flight of one gateway."""

    def __init__(self, *, active_max: int, clock: Clock) -> None:
        self._active_max = active_max
        self._clock = clock
        self._endings_s: deque[float] = deque(maxlen=_ENDINGS_KEPT)
        self.active_count = 0
        self.draining = False
        """Set before exit: nothing new is admitted."""

    @contextmanager
    def places(self) -> Iterator[Places]:
        """Hold places for the length of a call, beginning with one.

        Raises:
            Saturated: there is none.
            NotReady: this gateway drains.
        """
        if self.draining:
            raise NotReady(message="this gateway is shutting down", retry_after_s=RETRY_AFTER_MIN_S)
        places = Places(self)
        places.take(1)
        try:
            yield places
        finally:
            self._give_back(places.count)

    def take(self, count: int) -> None:
        """Take places.

        Raises:
            Saturated: there are not so many.
        """
        over = self.active_count + count - self._active_max
        if over > 0:
            raise Saturated(
                message=f"this gateway serves {self.active_count} of at most {self._active_max} requests; "
                "try again later",
                retry_after_s=estimate_retry_after_s(over, self._endings_s, self._clock.now_s()),
            )
        self.active_count += count

    def _give_back(self, count: int) -> None:
        self.active_count -= count
        now_s = self._clock.now_s()
        self._endings_s.extend([now_s] * count)


class BodyBudget:
    """Bounds the bytes of bodies that are being read, all calls together."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held_bytes = 0

    def take(self, count: int) -> None:
        """Count bytes that arrived.

        Raises:
            Saturated: other bodies hold too much.
        """
        if self._held_bytes + count > self._bytes_max:
            raise Saturated(
                message="too many large requests at once; try again later", retry_after_s=RETRY_AFTER_MIN_S
            )
        self._held_bytes += count

    def give_back(self, count: int) -> None:
        """Forget bytes of a body that was parsed or refused."""
        self._held_bytes -= count
