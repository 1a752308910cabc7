"""The command as a person runs it: a process with arguments, output and an exit code.

Comes in: arguments. Goes out: what it printed, or a cluster that it keeps up.
Invariant: a command started here is over, or killed, when its test is.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.live.cluster import DEADLINE_S, RunningCluster, shown, until
from tests.live.processes import Process, alive, family, naming, ports_of, taken

BATON = (sys.executable, "-m", "services.cli")
FREE_PORTS = ("--http-port", "0", "--grpc-port", "0")
NEWS_S = 300.0
"""Longest wait for a line of news: engines may boot anew before it."""
SIMULATED = ("--engine", "simulated", *FREE_PORTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that ran to its end."""

    code: int
    out: str
    err: str


async def baton(*arguments: str, stdin: str = "", **environment: str) -> Ended:
    """Run a command to its end."""
    process = await asyncio.create_subprocess_exec(
        *BATON,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate(stdin.encode())
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Ended(code=process.returncode, out=out.decode(), err=err.decode())


class Up:
    """A running `baton up`."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.folder = folder

    @property
    def out(self) -> str:
        """What it printed so far."""
        return (self.folder.parent / "up.out").read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """What it said beside that so far."""
        return (self.folder.parent / "up.err").read_text(encoding="utf-8")

    async def becomes_ready(self) -> RunningCluster:
        """Wait until it says that everything serves."""
        await until(lambda: "\n  logs " in self.out or self.process.returncode is not None)
        assert self.process.returncode is None, self.err
        return RunningCluster(self.folder)

    async def says(self, text: str, *, times: int = 1) -> None:
        """Wait until it said something beside its output, so often."""
        await until(lambda: self.err.count(text) >= times or self.process.returncode is not None, NEWS_S)
        assert self.err.count(text) >= times, self.err

    def pid(self, name: str) -> int:
        """Process id of one of its processes."""
        (found,) = naming(str(self.folder / ("nats/nats.conf" if name == "nats" else f"{name}.json")))
        return found

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one of its processes."""
        os.kill(self.pid(name), number)

    async def starts(self, count: int) -> None:
        """Wait until it has so many processes besides itself."""
        await until(lambda: len(self.family()) > count or self.process.returncode is not None)
        assert self.process.returncode is None, self.err

    def family(self) -> frozenset[Process]:
        """All processes of this cluster, this one included."""
        return family(self.process.pid)

    async def ends(self) -> int:
        """Wait for its end; returns the exit code."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()

    async def leaves_nothing(self, members: frozenset[Process], ports: frozenset[int]) -> None:
        """Wait until no process and no port of the cluster is left, by descent and by command line."""
        folder = str(self.folder)
        with contextlib.suppress(TimeoutError):
            await until(lambda: not (alive(members) or naming(folder) or taken(ports)))
        assert not alive(members)
        assert not naming(folder)
        assert not taken(ports)

    def ports(self) -> frozenset[int]:
        """TCP ports on which the cluster listens."""
        return ports_of(self.family())


@asynccontextmanager
async def baton_up(folder: Path, *arguments: str) -> AsyncIterator[Up]:
    """Start `baton up`; whatever is left at the end is killed.

    Args:
        folder: an empty folder; the run folder is made in it, output is kept beside that.
        arguments: further arguments.
    """
    run_folder = folder / "run"
    with (folder / "up.out").open("wb") as out, (folder / "up.err").open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            *BATON, "up", "--run-folder", str(run_folder), *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=err, env=os.environ | {"COLUMNS": "200"},
        )  # fmt: skip
    up = Up(process, run_folder)
    with shown(run_folder):
        try:
            yield up
        finally:
            members = up.family()
            if process.returncode is None:
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    await up.ends()
            for member in alive(members):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member.pid, 9)
            await process.wait()
