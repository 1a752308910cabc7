"""Calls that happen later and stay in order, on the running loop's time."""

import asyncio
from collections import deque
from collections.abc import Callable


class DelayLine:
    """One sender's path to one receiver: what is sent first arrives first, whatever its delay."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def send(self, delay_s: float, call: Callable[[], None]) -> bool:
        """Do `call` after `delay_s`, at once when nothing is under way and the delay is 0.

        Returns:
            False when as much is under way as may be: the call is lost.
        """
        if not self._waiting and delay_s <= 0:
            call()
            return True
        if len(self._waiting) >= self._limit:
            return False
        loop = asyncio.get_running_loop()
        at_s = loop.time() + max(delay_s, 0.0)
        if self._waiting:
            at_s = max(at_s, self._waiting[-1][0])
        self._waiting.append((at_s, call))
        if self._timer is None:
            self._timer = loop.call_at(at_s, self._arrive)
        return True

    def cut(self) -> None:
        """Lose everything that is under way."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arrive(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._waiting and self._waiting[0][0] <= loop.time():
            _, call = self._waiting.popleft()
            call()
        if self._waiting and self._timer is None:
            self._timer = loop.call_at(self._waiting[0][0], self._arrive)
