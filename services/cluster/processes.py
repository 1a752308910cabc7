"""Child processes: started with a log each, watched, ended in order; none outlives us.

Comes in: `ProcessSpec`s. Goes out: running processes and the news that one ended.
Invariant: after `stop` no process started here runs; if this process is killed, its children get
SIGTERM from the kernel (each is told our id and asks for that).
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from pathlib import Path

from services.cluster.plan import ProcessSpec
from services.runtime.tasks import first_of

TAIL_LINES = 15


class Child:
    """One running process."""

    def __init__(self, spec: ProcessSpec, process: asyncio.subprocess.Process, log_file: Path) -> None:
        self.spec = spec
        self.process = process
        self.log_file = log_file

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.process.returncode

    def tail(self) -> str:
        """Last lines of its log, for an error message."""
        try:
            with self.log_file.open(encoding="utf-8", errors="replace") as lines:
                return "".join(deque(lines, TAIL_LINES)).rstrip()
        except OSError as error:
            return f"(no log: {error.strerror})"


class Children:
    """All processes of one cluster."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[Child] = []

    async def start(self, spec: ProcessSpec) -> Child:
        """Start a process; its settings and log go to the run folder."""
        settings_file = self._folder / f"{spec.name}.json"
        settings_file.write_bytes(spec.settings)
        settings_file.chmod(0o600)
        log_file = self._folder / f"{spec.name}.log"
        with log_file.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.cli",
                spec.command,
                "--settings",
                str(settings_file),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C at the terminal reaches us alone; we end the others in order
            )
        child = Child(spec, process, log_file)
        self._children.append(child)
        return child

    def all(self) -> tuple[Child, ...]:
        """All processes, in the order of their start."""
        return tuple(self._children)

    def dead(self) -> Child | None:
        """A process that ended by itself, if one did."""
        return next((c for c in self._children if c.exit_code is not None), None)

    async def wait_any(self) -> Child:
        """Wait until a process ends by itself."""
        waits = {asyncio.ensure_future(c.process.wait()): c for c in self._children}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return waits[next(iter(done))]
        finally:
            for wait in waits:
                wait.cancel()

    async def stop(self, timeout_s: float, *, force: asyncio.Event) -> tuple[str, ...]:
        """End all processes, gateway first so that workers can finish for it; idempotent.

        Args:
            timeout_s: patience for each of the two groups before they are killed.
            force: when set, kill at once.

        Returns:
            Names of processes that had to be killed.
        """
        killed: list[str] = []
        gateways = [c for c in self._children if c.spec.command == "gateway"]
        others = [c for c in self._children if c.spec.command != "gateway"]
        for group in (gateways, others):
            killed += await self._stop_group(group, timeout_s, force)
        return tuple(killed)

    async def _stop_group(self, group: list[Child], timeout_s: float, force: asyncio.Event) -> list[str]:
        running = [c for c in group if c.exit_code is None]
        for child in running:
            _signal(child, signal.SIGTERM)
        ended = asyncio.gather(*(c.process.wait() for c in running))
        forced = asyncio.ensure_future(force.wait())
        await first_of(ended, forced, timeout_s=timeout_s)
        forced.cancel()
        late = [c for c in running if c.exit_code is None]
        for child in late:
            _kill_session(child)
        await ended
        return [c.spec.name for c in late]


def _signal(child: Child, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.process.send_signal(number)


def _kill_session(child: Child) -> None:
    """Kill a process and those it started (an engine has one of its own)."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.process.pid, signal.SIGKILL)
