"""One direction of a link inside one process: ordered, delayed, and held while its ends are parted.

Comes in: arrivals, each a call to be made at the other end. Goes out: these calls, in order, from the
event loop, never from within `put`. Time is the loop's own, so it may be virtual.
"""

import asyncio
from collections import deque
from collections.abc import Callable

_ROUNDING_S = 1e-9
"""A timer may fire this much before its time, because times are added as floats."""


class Conduit:
    """A queue of calls on their way."""

    def __init__(self, delay_s: Callable[[], float]) -> None:
        """Make an open conduit.

        Args:
            delay_s: asked once for each arrival, >= 0; later arrivals never overtake earlier ones.
        """
        self._delay_s = delay_s
        self._arrivals: deque[tuple[float, Callable[[], None]]] = deque()
        self._timer: asyncio.Handle | None = None
        self._held = False

    def __len__(self) -> int:
        return len(self._arrivals)

    def put(self, arrive: Callable[[], None]) -> None:
        """Let something arrive at the other end."""
        due_s = asyncio.get_running_loop().time() + self._delay_s()
        if self._arrivals:
            due_s = max(due_s, self._arrivals[-1][0])
        self._arrivals.append((due_s, arrive))
        self._arm()

    def hold(self) -> None:
        """Deliver nothing until `release`."""
        self._held = True
        self._disarm()

    def release(self) -> None:
        """Deliver again, what waited first."""
        self._held = False
        self._arm()

    def clear(self) -> None:
        """Lose everything that is on its way."""
        self._arrivals.clear()
        self._disarm()

    def _arm(self) -> None:
        if self._held or self._timer is not None or not self._arrivals:
            return
        loop = asyncio.get_running_loop()
        due_s = self._arrivals[0][0]
        if due_s <= loop.time() + _ROUNDING_S:
            self._timer = loop.call_soon(self._deliver)
        else:
            self._timer = loop.call_at(due_s, self._deliver)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _deliver(self) -> None:
        """Make one call; the next has its own turn, so that tasks may run in between."""
        self._timer = None
        _, arrive = self._arrivals.popleft()
        try:
            arrive()
        finally:
            self._arm()
