"""Child processes: started with a log each, asked, started again, ended in order; none outlives us.

Comes in: `ProcessSpec`s. Goes out: running processes and the news that one ended.
Invariant: after `stop` no process started here runs; if this process is killed, its children get
SIGTERM from the kernel (each is told our id and asks for that).
Not here: when one is started again (`services.cluster.supervision`).
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from pathlib import Path

import httpx

from services.cluster.plan import ProcessSpec, pinned
from services.cluster.supervisor import Question
from services.domain.errors import EngineFailed
from services.runtime.ports_file import read_ports
from services.runtime.probe import LIVE_PATH, READY_PATH
from services.runtime.tasks import first_of

TAIL_LINES = 15


class Child:
    """One process, through all its lives. A `services.cluster.supervisor.Watched`."""

    def __init__(self, spec: ProcessSpec, folder: Path, http: httpx.AsyncClient) -> None:
        """Describe it; nothing runs yet.

        Args:
            spec: what to run.
            folder: where its settings and its log go.
            http: client for questions to it.
        """
        self.spec = spec
        self.log_file = folder / f"{spec.name}.log"
        self._settings_file = folder / f"{spec.name}.json"
        self._ports_file = Path(spec.ports_file)
        self._http = http
        self._process: asyncio.subprocess.Process | None = None
        self._lives = 0

    @property
    def name(self) -> str:
        """Name in messages and of its log."""
        return self.spec.name

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.returncode

    @property
    def runs(self) -> bool:
        """Whether it was started and did not end."""
        return self._process is not None and self._process.returncode is None

    @property
    def ports(self) -> tuple[int, ...] | None:
        """Ports it told; None as long as it did not."""
        return read_ports(self._ports_file)

    async def start(self) -> None:
        """Start it, or start it again with the ports that clients know.

        Raises:
            EngineFailed: the system has no room for another process.
        """
        if self._lives and (ports := self.ports) is not None:
            self.spec = pinned(self.spec, ports)
        self._ports_file.unlink(missing_ok=True)
        self._settings_file.write_bytes(self.spec.settings)
        self._settings_file.chmod(0o600)
        with self.log_file.open("ab" if self._lives else "wb") as log:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "services.cli",
                    self.spec.command,
                    "--settings",
                    str(self._settings_file),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C at the terminal reaches us alone; we end them in order
                )
            except OSError as error:
                raise EngineFailed(worker_id=self.name, message=f"{self.name}: {error}") from None
        self._lives += 1

    async def wait(self) -> int:
        """Wait for its end; returns the exit code, negative for a signal."""
        assert self._process is not None  # noqa: S101  # called only after `start`
        return await self._process.wait()

    async def asks(self, question: Question, timeout_s: float) -> bool:
        """Ask the process itself; False when it does not say yes in time."""
        ports = self.ports
        if ports is None:
            return False
        # A gateway is ready when a worker is; what matters here is that it answers.
        path = READY_PATH if question is Question.READY and self.spec.command != "gateway" else LIVE_PATH
        try:
            answer = await self._http.get(f"http://{self.spec.host}:{ports[-1]}{path}", timeout=timeout_s)
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None and self.runs:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it and those it started (an engine has a process of its own), also when only they are left."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

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
        self._http = httpx.AsyncClient(trust_env=False)

    async def start(self, spec: ProcessSpec) -> Child:
        """Start a process; its settings and log go to the run folder."""
        child = self.add(spec)
        await child.start()
        return child

    def add(self, spec: ProcessSpec) -> Child:
        """Describe a process that somebody else starts."""
        child = Child(spec, self._folder, self._http)
        self._children.append(child)
        return child

    def forget(self, child: Child) -> None:
        """Leave out a process that ended for good; its log stays."""
        self._children.remove(child)

    def all(self) -> tuple[Child, ...]:
        """All processes, in the order of their start."""
        return tuple(self._children)

    def dead(self) -> Child | None:
        """A process that ended by itself, if one did."""
        return next((c for c in self._children if c.exit_code is not None), None)

    async def stop(self, timeout_s: float, *, force: asyncio.Event) -> tuple[str, ...]:
        """End all processes, gateways first so that workers can finish for them; idempotent.

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
            killed += await _stop_group(group, timeout_s, force)
        await self._http.aclose()
        return tuple(killed)


async def _stop_group(group: list[Child], timeout_s: float, force: asyncio.Event) -> list[str]:
    running = [c for c in group if c.runs]
    for child in running:
        child.signal(signal.SIGTERM)
    ended = asyncio.gather(*(c.wait() for c in running))
    forced = asyncio.ensure_future(force.wait())
    await first_of(ended, forced, timeout_s=timeout_s)
    forced.cancel()
    late = [c for c in running if c.runs]
    for child in late:
        child.kill()
    await ended
    return [c.name for c in late]
