"""Lifecycle of a process: run until a signal, drain once, stop at the second; die with the parent.

Comes in: SIGTERM and SIGINT. Goes out: an event to wait for. Not here: what draining means.
"""

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 10.0
"""Longest wait for the parts of a process to end: within what the chart grants behind a drain."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class StopSignal:
    """First signal: stop in order. Second signal: stop now."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.forced = asyncio.Event()

    def install(self) -> None:
        """Handle SIGTERM and SIGINT on the running loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ask)

    def ask(self) -> None:
        """Ask for the stop, as a signal does."""
        if self.asked.is_set():
            self.forced.set()
        self.asked.set()


@asynccontextmanager
async def closing_in_time(timeout_s: float = CLOSE_TIMEOUT_S) -> AsyncIterator[AsyncExitStack]:
    """Give a stack for what must be ended; at the end, wait for it no longer than that.

    Each part is told to end, the last one first. One that takes too long is cancelled, the others are told to
    end all the same, and the log names the tasks that are left then.

    Args:
        timeout_s: for all parts up to the first that takes too long.
    """
    stack = AsyncExitStack()
    try:
        yield stack
    finally:
        try:
            async with asyncio.timeout(timeout_s):
                await stack.aclose()
        except TimeoutError:
            left = [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            log.warning("not all ended within %g s; left: %s", timeout_s, "; ".join(left) or "no task")


def die_with_parent(parent_pid: int | None) -> None:
    """Have the kernel end this process when its parent ends (Linux; elsewhere nothing happens).

    Args:
        parent_pid: the parent's id as the parent gave it; when it is gone already, exit at once.
    """
    if parent_pid is None or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent_pid:
        sys.exit(0)
