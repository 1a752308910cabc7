"""What the kernel knows of processes: who descends from whom, who lives, who listens.

Comes in: process ids. Goes out: identities that survive the reuse of an id. Read from /proc, proc(5).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
LISTENING = "0A"
"""State TCP_LISTEN in /proc/net/tcp."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process, told apart from a later one with the same id by its start."""

    pid: int
    started_ticks: int


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on; None when the process is gone or only waits for its end."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields


def family(*pids: int) -> frozenset[Process]:
    """Find processes and all that descend from them."""
    known: dict[int, list[str]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            known[int(entry.name)] = fields
    members = {pid for pid in pids if pid in known}
    while True:
        more = {pid for pid, fields in known.items() if int(fields[1]) in members} - members
        if not more:
            return frozenset(Process(pid, int(known[pid][19])) for pid in members)
        members |= more


def alive(processes: Iterable[Process]) -> frozenset[Process]:
    """Select those that still run."""
    found = ((process, _stat(process.pid)) for process in processes)
    return frozenset(p for p, fields in found if fields is not None and int(fields[19]) == p.started_ticks)


def describe(process: Process) -> str:
    """Tell a process by its command line."""
    try:
        words = (PROC / str(process.pid) / "cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return f"{process.pid} (gone)"
    return f"{process.pid} {b' '.join(words).decode(errors='replace')}"


def naming(text: str) -> frozenset[int]:
    """Find processes whose command line has a text in it."""
    found = set()
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or _stat(int(entry.name)) is None:
            continue
        try:
            command = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text.encode() in command:
            found.add(int(entry.name))
    return frozenset(found)


def _listening() -> dict[str, int]:
    """Port of each listening TCP socket, by inode."""
    ports = {}
    for table in ("tcp", "tcp6"):
        for line in (PROC / "net" / table).read_text(encoding="utf-8").splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING:
                ports[fields[9]] = int(fields[1].rpartition(":")[2], 16)
    return ports


def ports_of(processes: Iterable[Process]) -> frozenset[int]:
    """Find the TCP ports on which any of them listens."""
    listening = _listening()
    ports = set()
    for process in processes:
        try:
            targets = [str(fd.readlink()) for fd in (PROC / str(process.pid) / "fd").iterdir()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        ports |= {listening[t[8:-1]] for t in targets if t.startswith("socket:[") and t[8:-1] in listening}
    return frozenset(ports)


def taken(ports: Iterable[int]) -> frozenset[int]:
    """Select ports on which anybody listens."""
    return frozenset(ports) & frozenset(_listening().values())
