"""What a soak looks at: memory and descriptors of every process, what the cluster holds, as rows over time.

Comes in: a running cluster. Goes out: rows of numbers, a CSV file, a summary of what grew.
Invariant: every row has every column; a process that is away at the moment counts as nothing (NaN).
"""

import csv
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from tests.cli.command import Up
from tests.live.cluster import RunningCluster
from tests.live.processes import describe, family, naming

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MIB = 1024 * 1024
EDGE_FRAC = 0.25
"""Share of the run whose median is compared: the second quarter, when all is warm, and the last."""

Row = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How one series changed.

    Attributes:
        early: median of the second quarter.
        late: median of the last quarter.
    """

    name: str
    early: float
    late: float


class Observer:
    """Takes one row at a time."""

    def __init__(self, up: Up, gateways: dict[str, RunningCluster], workers: Sequence[str]) -> None:
        self._up = up
        self._gateways = gateways
        self._workers = tuple(workers)

    async def look(self, elapsed_s: float) -> Row:
        """Take a row."""
        row: Row = {"elapsed_s": round(elapsed_s, 1)}
        for name, pid in self._processes().items():
            rss_bytes, descriptors = (math.nan, math.nan) if pid is None else measure(pid)
            row[f"rss_mib {name}"] = round(rss_bytes / MIB, 2)
            row[f"fds {name}"] = descriptors
        row |= dict.fromkeys(("leased_blocks", "queue_tasks", "running_requests"), math.nan)
        row |= {f"index_blocks {name}": math.nan for name in self._gateways}
        for name, gateway in self._gateways.items():
            try:
                if name == "gateway":
                    state = await gateway.state()
                    row["leased_blocks"] = sum(w.load.leased_blocks for w in state.workers)
                    row["queue_tasks"] = state.queue_waiting_count
                    row["running_requests"] = sum(
                        w.load.running_count + w.load.waiting_count for w in state.workers
                    )
                row[f"index_blocks {name}"] = await gateway.counter("baton_router_index_blocks")
            except (httpx.HTTPError, msgspec.MsgspecError, AssertionError):
                continue  # it restarts at this moment
        return row

    def _processes(self) -> dict[str, int | None]:
        found: dict[str, int | None] = {"baton up": self._up.process.pid}
        for name in (*self._gateways, "nats", *self._workers):
            what = "nats/nats.conf" if name == "nats" else f"{name}.json"
            found[name] = next(iter(sorted(naming(str(self._up.folder / what)))), None)
        for name in self._workers:
            worker = found[name]
            found[f"{name} engine"] = None if worker is None else _engine_of(worker)
        return found


def _engine_of(worker: int) -> int | None:
    members = [p.pid for p in family(worker) if p.pid != worker]
    return next((pid for pid in members if "EngineCore" in _describe(pid)), None)


def _describe(pid: int) -> str:
    """Tell a process by its command line; empty when it is gone."""
    return next((describe(process) for process in family(pid) if process.pid == pid), "")


def measure(pid: int) -> tuple[float, float]:
    """Read resident memory, bytes, and open descriptors, count, from proc(5); NaN when it is gone."""
    folder = Path("/proc") / str(pid)
    try:
        pages = int((folder / "statm").read_text(encoding="ascii").split()[1])
        return float(pages * PAGE_BYTES), float(len(list((folder / "fd").iterdir())))
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return math.nan, math.nan


def write_csv(file: Path, rows: Sequence[Row]) -> None:
    """Write all rows."""
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def growths(rows: Sequence[Row]) -> list[Growth]:
    """Compare the second quarter of a run with its last one, series by series."""
    quarter = max(1, int(len(rows) * EDGE_FRAC))
    result = []
    for name in rows[0]:
        if name == "elapsed_s":
            continue
        early = [row[name] for row in rows[quarter : 2 * quarter] if not math.isnan(row[name])]
        late = [row[name] for row in rows[-quarter:] if not math.isnan(row[name])]
        if early and late:
            result.append(Growth(name=name, early=statistics.median(early), late=statistics.median(late)))
    return result
