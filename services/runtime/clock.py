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


TURNS_MAX = 200_000
"""Turns of a virtual loop without a step of time before it counts as a deadlock."""

_TURNS_BETWEEN_LOOKS = 64
"""Signals and calls of other threads are looked for once in so many turns: a look is a system call."""


class SkewedClock:
    """A clock that runs fast or slow and may jump forward; only for simulations.

    As that of a host whose crystal is off, or that was suspended.
    """

    def __init__(self, *, offset_s: float = 0.0) -> None:
        """Make a clock that runs with the loop, `offset_s` ahead of it."""
        self._ahead_s = offset_s
        self._rate = 1.0
        self._since_s = 0.0

    def now_s(self) -> float:
        """Seconds by this clock; must be called from within a loop."""
        loop_s = asyncio.get_running_loop().time()
        return loop_s + self._ahead_s + (self._rate - 1.0) * (loop_s - self._since_s)

    def skew(self, *, rate: float, jump_s: float = 0.0) -> None:
        """Run at `rate` seconds a second from now on, after a jump forward.

        Raises:
            ValueError: time would stand still or go back.
        """
        if rate <= 0 or jump_s < 0:
            raise ValueError("time never goes back")
        loop_s = asyncio.get_running_loop().time()
        self._ahead_s = self.now_s() - loop_s + jump_s
        self._rate, self._since_s = rate, loop_s


class DeadlockError(RuntimeError):
    """Everything waits for ever, or work goes round and round while time stands still."""


class _InstantSelector(selectors.SelectSelector):
    """Moves virtual time to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            ready = super().select(0)
            if not ready:
                raise DeadlockError("every task waits and no timer is set")
            return ready
        if timeout > 0:
            self._turns = 0
            self.now_s += timeout
            return []
        self._turns += 1
        if self._turns > TURNS_MAX:
            self._turns = 0  # whoever cleans up has turns of its own
            raise DeadlockError(f"time stands still at {self.now_s:.6f} s while work goes round")
        return super().select(0) if self._turns % _TURNS_BETWEEN_LOOKS == 0 else []


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
