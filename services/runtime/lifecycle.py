"""Lifecycle of a process: run until a signal, drain once, stop at the second; die with the parent.

Comes in: SIGTERM and SIGINT. Goes out: an event to wait for. Not here: what draining means.
"""

import asyncio
import ctypes
import os
import signal
import sys

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
