"""A running cluster as its users and operators see it: ports, state, records, counters, logs.

Comes in: a run folder, or settings to start from. Goes out: answers of its HTTP interface, typed.
Invariant: a cluster opened here leaves no process and no port when it is closed.
"""

import asyncio
import contextlib
import json
import os
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import msgspec
import openai

from services.cli.records import Record
from services.cluster.local import LocalCluster
from services.cluster.settings import ClusterSettings
from services.runtime.ports_file import read_ports
from tests.live.processes import alive, describe, family, ports_of, taken

DEADLINE_S = 120.0
"""Longest wait for anything; generous, since the machine may be shared."""
POLL_S = 0.05
TAIL_LINES = 40
RETRIES_MAX = 6
"""A machine that stands still for seconds loses its fleet for a moment; clients are told to try again."""

_PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Never used on plain HTTP; without it each client reads all certificates of the machine anew."""

_open: list[Path] = []
"""Run folders of clusters that are up: whose logs belong to a test that fails now."""


async def until(reached: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Wait for something that another process does.

    Raises:
        TimeoutError: it was not done within the deadline.
    """
    async with asyncio.timeout(deadline_s):
        while not reached():  # noqa: ASYNC110 - another process sets no event of ours
            await asyncio.sleep(POLL_S)


class SeenLoad(msgspec.Struct):
    """Load of one worker."""

    running_count: int
    waiting_count: int
    kv_used_blocks: int
    leased_blocks: int


class SeenWorker(msgspec.Struct):
    """One worker in the fleet."""

    worker_id: str
    epoch: str
    phases: list[str]
    address: str
    load: SeenLoad


class SeenCluster(msgspec.Struct):
    """What `GET /baton/v1/cluster` answers, as far as tests look."""

    workers: list[SeenWorker]
    queue_waiting_count: int
    active_count: int

    def leased(self, worker_id: str) -> int:
        """KV blocks that one worker keeps for handoffs."""
        return sum(w.load.leased_blocks for w in self.workers if w.worker_id == worker_id)

    def held(self) -> dict[str, int]:
        """What is held for requests anywhere, by name, without zeros."""
        held = {"requests": self.active_count, "tasks": self.queue_waiting_count}
        for worker in self.workers:
            held[f"{worker.worker_id} sequences"] = worker.load.running_count + worker.load.waiting_count
            held[f"{worker.worker_id} leased blocks"] = worker.load.leased_blocks
            held[f"{worker.worker_id} used blocks"] = worker.load.kv_used_blocks
        return {name: count for name, count in held.items() if count}


class RunningCluster:
    """One cluster that is up."""

    def __init__(self, folder: Path, gateway: str = "gateway") -> None:
        """Find it by what its processes wrote.

        Args:
            folder: its run folder.
            gateway: which gateway is asked.
        """
        ports = read_ports(folder / f"{gateway}.ports")
        assert ports is not None
        self.folder = folder
        self.http_port, self.grpc_port, _ = ports
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.grpc_address = f"127.0.0.1:{self.grpc_port}"

    def grpc(self) -> grpc.aio.Channel:
        """Make a channel; the caller closes it."""
        policy = {
            "maxAttempts": RETRIES_MAX,
            "initialBackoff": "0.5s",
            "maxBackoff": "5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
        return grpc.aio.insecure_channel(self.grpc_address, options=[("grpc.service_config", config)])

    def http(self) -> httpx.AsyncClient:
        """Make a client; the caller closes it."""
        return httpx.AsyncClient(base_url=self.url, timeout=DEADLINE_S, verify=_PLAIN, trust_env=False)

    def openai(self) -> openai.AsyncOpenAI:
        """Make the official client; the caller closes it."""
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key="none",
            max_retries=RETRIES_MAX,
            timeout=DEADLINE_S,
            http_client=openai.DefaultAsyncHttpxClient(verify=_PLAIN, trust_env=False),
        )

    async def state(self) -> SeenCluster:
        """Ask for the state of the cluster."""
        async with self.http() as http:
            answer = await http.get("/baton/v1/cluster")
        return msgspec.json.decode(answer.content, type=SeenCluster)

    async def record(self, request_id: str) -> Record:
        """Ask what is known of a request."""
        async with self.http() as http:
            return await fetch_record(http, request_id)

    async def becomes(self, wanted: Callable[[SeenCluster], bool]) -> None:
        """Wait for a state.

        Raises:
            AssertionError: it does not come; the message says what is held.
        """
        state = await self.state()
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not wanted(state):
                    await asyncio.sleep(POLL_S)
                    state = await self.state()
        except TimeoutError:
            raise AssertionError(f"the state did not come; held: {state.held()}") from None

    async def becomes_idle(self) -> None:
        """Wait until nothing is held for any request."""
        await self.becomes(lambda state: not state.held())

    async def counter(self, name: str, process: str = "gateway") -> float:
        """Read a metric of one process, summed over its labels."""
        port = self.http_port if process == "gateway" else self._metrics_port(process)
        async with httpx.AsyncClient(timeout=DEADLINE_S, verify=_PLAIN, trust_env=False) as http:
            text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
        assert f"# TYPE {name.removesuffix('_total')}" in text, f"{process} has no metric {name}"
        return sum(map(float, re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)))

    def _metrics_port(self, process: str) -> int:
        ports = read_ports(self.folder / f"{process}.ports")
        assert ports is not None
        return ports[0]


async def fetch_record(http: httpx.AsyncClient, request_id: str) -> Record:
    """Ask what is known of a request."""
    answer = await http.get(f"/baton/v1/requests/{request_id}")
    return msgspec.json.decode(answer.raise_for_status().content, type=Record)


@contextmanager
def shown(folder: Path) -> Iterator[None]:
    """Have the logs of a run folder shown with tests that fail meanwhile, or because of what fails here."""
    _open.append(folder)
    yield
    _open.remove(folder)


def log_tails() -> Iterator[tuple[str, str]]:
    """Yield name and last lines of each log of the clusters that are up."""
    for folder in _open:
        for file in sorted([*folder.glob("*.log"), *folder.parent.glob("up.*")]):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            yield f"{file.parent.name}/{file.name}", "\n".join(lines[-TAIL_LINES:])


@contextmanager
def open_cluster(settings: ClusterSettings, folder: Path) -> Iterator[RunningCluster]:
    """Bring a cluster up, take it down; it must leave nothing behind.

    Args:
        settings: what is wanted; ports and run folder are chosen here.
        folder: for settings and logs.
    """
    edge = msgspec.structs.replace(settings.edge, http_port=0, grpc_port=0)
    cluster = LocalCluster(
        msgspec.structs.replace(settings, edge=edge, run_folder=str(folder), stop_timeout_s=DEADLINE_S)
    )
    own = alive(family(os.getpid()))
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner, shown(folder):
        try:
            runner.run(cluster.start(lambda _progress: None))
            started = family(os.getpid()) - own
            ports = ports_of(started)
            yield RunningCluster(folder)
        finally:
            killed = runner.run(cluster.stop(keep_logs=True))
        assert not killed, f"had to be killed: {killed}"
        # An engine's own small servers (multiprocessing's resource tracker) follow it a moment later.
        with contextlib.suppress(TimeoutError):
            runner.run(until(lambda: not alive(started)))
        assert not alive(started), f"still running: {[describe(p) for p in alive(started)]}"
        assert not taken(ports), f"still taken: {sorted(taken(ports))}"
