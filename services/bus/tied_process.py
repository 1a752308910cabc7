"""Become another program that dies when its parent does, however the parent ends.

Comes in: on the command line, the parent's process id, a program and its arguments. Goes out: that
program in this process. Invariant: no such program outlives its parent, not even one that was killed.
Run as a script, so that nothing is executed between fork and exec of a parent that has threads.
Not here: anything that imports more than the standard library.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""prctl(2) of Linux: the signal sent when the thread that started this process ends."""


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and replace it by the program.

    Args:
        arguments: the parent's process id, the program's path, the program's arguments.
    """
    parent, program = int(arguments[0]), arguments[1]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl refused to tie this process to its parent")
    if os.getppid() != parent:
        raise SystemExit("the parent ended before its child began")
    os.execv(program, arguments[1:])  # noqa: S606 - becoming the program is the purpose


if __name__ == "__main__":
    main(sys.argv[1:])
