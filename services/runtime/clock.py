"""The clock port: monotonic seconds that shells hand to pure decisions.

Time is the event loop's own (`loop.time()`), so that a whole cluster runs on a virtual clock when its
loop is a `VirtualTimeLoop`: `asyncio.sleep`, timeouts and this clock then agree, and take no real time.
Invariant: never goes back; only differences mean anything, and none crosses a process.
"""

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Clock(Protocol):
    """Monotonic time."""

    def now_s(self) -> float:
        """Seconds since some fixed moment."""
        ...


class LoopClock:
    """The running event loop's time, read finely.

    A real loop counts the machine's monotonic time, but some (uvloop) only in milliseconds and once per
    turn; there the same time is read directly.
    """

    def now_s(self) -> float:
        """Seconds by the running loop; must be called from within it."""
        loop = asyncio.get_running_loop()
        return loop.time() if isinstance(loop, VirtualTimeLoop) else time.monotonic()


class DeadlockError(RuntimeError):
    """Everything waits and nothing is scheduled: real time would stand still for ever."""


class _InstantSelector(selectors.SelectSelector):
    """Moves virtual time to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise DeadlockError("every task waits and no timer is set")
        self.now_s += max(timeout, 0.0)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop on which an hour passes as soon as nobody has anything to do before it.

    Only for code that waits on timers and other tasks: sockets would not be waited for. What would run in a
    thread runs at once instead, in no time, so that the same inputs give the same run.
    """

    def __init__(self) -> None:
        self._instant = _InstantSelector()
        super().__init__(self._instant)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._instant.now_s

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: object) -> "asyncio.Future[T]":
        """Call a function here and now, whatever executor is named."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  # as a thread would, whatever it is
            done.set_exception(error)
        return done


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a new virtual clock.

    Raises:
        DeadlockError: when everything waits and no timer is set.
    """
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
