"""Bring a cluster up on Ray, tell what becomes of it, take it down.

Comes in: `ClusterSettings` and a place to report progress. Goes out: a running cluster with a gateway's
address. Invariant: `stop` leaves none of its applications, and of a Ray cluster that was started here nothing
at all; other applications of a shared cluster are left alone. Not here: what is printed (`services.cli`), who
starts a dead replica again (Serve).
"""

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import httpx
import msgspec

from services.bus.embedded import EmbeddedNats
from services.bus.settings import EmbeddedSettings
from services.cluster.address import GatewayAddress, gateway_address
from services.cluster.local import Progress
from services.cluster.nats_process import NatsProcess
from services.cluster.ray.plan import Application, application_name, applications
from services.cluster.ray.session import Session, close_session, open_session
from services.cluster.ray.settings import Part
from services.cluster.settings import ClusterSettings
from services.cluster.supervisor import Supervisor
from services.domain.errors import ConfigurationInvalid, EngineFailed

if TYPE_CHECKING:
    from services.cluster.ray.serving import State

POLL_S = 0.25
"""Time between questions about the start; seconds."""
HTTP_TIMEOUT_S = 2.0
NATS_LOG = "nats.log"
_LOOPBACK = ("127.", "localhost", "::1")

T = TypeVar("T")


class RayCluster:
    """One cluster on Ray Serve."""

    def __init__(self, settings: ClusterSettings) -> None:
        """Plan it; nothing is connected yet.

        Args:
            settings: what is wanted.

        Raises:
            ConfigurationInvalid: names what cannot be on Ray.
        """
        self.settings = settings
        self._planned = applications(settings)
        self.folder = Path(settings.run_folder or tempfile.mkdtemp(prefix="baton-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._own_folder = settings.run_folder is None
        self._nats: EmbeddedNats | None = None
        self._session: Session | None = None
        self._is_deployed = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray")
        self._force = asyncio.Event()
        self.addresses: tuple[GatewayAddress, ...] = ()
        """Of one gateway; further ones have the same ports on other nodes."""
        self.nats_url = settings.nats.url or ""

    @property
    def whereabouts(self) -> str:
        """Where to look at it: Ray's dashboard, which has Serve's REST API too, and the logs on each node."""
        found = self._session
        return f"{found.dashboard_url or 'no dashboard'}, logs in {found.logs_folder}" if found else ""

    @property
    def http_url(self) -> str:
        """Where a gateway answers HTTP."""
        return self.addresses[0].http_url

    @property
    def grpc_address(self) -> str:
        """Where a gateway answers gRPC."""
        return self.addresses[0].grpc_address

    async def start(self, report: Callable[[Progress], None]) -> None:
        """Connect, deploy everything and wait until every replica serves.

        Raises:
            ConfigurationInvalid: there is no such Ray cluster, or what is wanted does not suit it.
            EngineFailed: Serve gave a part up, or the time was up; the message says why.
        """
        began_s = asyncio.get_running_loop().time()
        session = self._session = await self._blocking(
            partial(
                open_session,
                self.settings.ray,
                cpus=sum(part.replica_count * part.resources.get("CPU", 0.0) for part in self._planned),
            )
        )
        # Ray's own handler prints a stack and ends the process: back to the one that was there before.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        _check_reach(self.settings, session)
        if not self.nats_url:
            self._nats = EmbeddedNats(
                EmbeddedSettings(
                    port=self.settings.nats.port,
                    store_dir=str(self.folder / "nats"),
                    log_file=str(self.folder / NATS_LOG),
                )
            )
            self.nats_url = await self._nats.start()
        nats = msgspec.structs.replace(self.settings.nats, url=self.nats_url)
        own = msgspec.structs.replace(self.settings, nats=nats)
        from services.cluster.ray import serving  # imports Ray, which reads what the session set

        self._is_deployed = True
        await self._blocking(partial(serving.deploy, own, self._planned))
        await self._wait_ready(report, began_s)

    async def _wait_ready(self, report: Callable[[Progress], None], began_s: float) -> None:
        from services.cluster.ray import serving

        loop = asyncio.get_running_loop()
        workers = [part for part in self._planned if part.part is not Part.GATEWAY]
        expected = tuple(f"{part.part.value}-{i}" for part in workers for i in range(part.replica_count))
        gateway = application_name(self.settings, Part.GATEWAY)
        async with httpx.AsyncClient(timeout=HTTP_TIMEOUT_S, trust_env=False) as http:
            while True:
                seen = await self._blocking(partial(serving.states, [part.name for part in self._planned]))
                failed = next((name for name, state in seen.items() if state.has_failed), None)
                if failed is not None:
                    raise EngineFailed(worker_id=failed, message=f"{failed}: {seen[failed].message}")
                running = {name: state.running_count for name, state in seen.items()}
                ready = tuple(
                    f"{part.part.value}-{i}"
                    for part in workers
                    for i in range(min(part.replica_count, running.get(part.name, 0)))
                )
                is_open = running.get(gateway, 0) >= self.settings.gateways
                elapsed_s = loop.time() - began_s
                report(Progress(ready=ready, expected=expected, gateway_ready=is_open, elapsed_s=elapsed_s))
                if is_open and len(ready) == len(expected) and await self._serves(http, gateway):
                    return
                if elapsed_s > self.settings.start_timeout_s:
                    raise EngineFailed(worker_id=gateway, message=_too_late(elapsed_s, self._planned, seen))
                await asyncio.sleep(POLL_S)

    async def _serves(self, http: httpx.AsyncClient, gateway: str) -> bool:
        from services.cluster.ray import serving

        if not self.addresses:
            host, ports = await self._blocking(partial(serving.gateway_address, gateway))
            self.addresses = (gateway_address(self.settings.edge, host, ports),)
        try:
            answer = await http.get(f"{self.addresses[0].watch_url}/health/ready")
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK

    async def supervise(self, tell: Callable[[str], None]) -> str:
        """Tell what becomes of the parts, and keep NATS running where it is ours; cancel it before `stop`.

        Args:
            tell: called with a line about each part whose state changed.

        Returns:
            Why the cluster cannot go on.
        """
        watching = [asyncio.ensure_future(self._watch(tell))]
        if self._nats is not None:
            nats = Supervisor(
                self.settings.supervision,
                [NatsProcess(self._nats, self.folder / NATS_LOG)],
                start_timeout_s=self.settings.start_timeout_s,
                tell=tell,
            )
            watching.append(asyncio.ensure_future(nats.run()))
        try:
            done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for watch in watching:
                watch.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def _watch(self, tell: Callable[[str], None]) -> str:
        from services.cluster.ray import serving

        loop = asyncio.get_running_loop()
        names = [part.name for part in self._planned]
        known: dict[str, str] = dict.fromkeys(names, "HEALTHY")
        heard_s = loop.time()
        while True:
            await asyncio.sleep(self.settings.supervision.liveness_period_s)
            try:
                seen = await self._blocking(partial(serving.states, names))
            except EngineFailed as error:  # Ray starts Serve's controller again when it died
                if loop.time() - heard_s > self.settings.start_timeout_s:
                    return str(error)
                continue
            heard_s = loop.time()
            for name in names:
                state = seen.get(name)
                status = state.status if state else "gone"
                if status != known[name]:
                    known[name] = status
                    tell(
                        f"{name}: {status.lower()}"
                        + (f": {state.message}" if state and state.message else "")
                    )
            if all(status == "gone" for status in known.values()):
                return "its applications were deleted"

    def force(self) -> None:
        """Do not wait any longer for an orderly stop."""
        self._force.set()

    async def stop(self, *, keep_logs: bool) -> tuple[str, ...]:
        """Delete the applications, gateways first, and end what was started here.

        Returns:
            Names of what did not go in order.
        """
        late: tuple[str, ...] = ()
        gone = asyncio.ensure_future(self._blocking(self._delete))
        forced = asyncio.ensure_future(self._force.wait())
        await asyncio.wait({gone, forced}, return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        if gone.done():
            await self._blocking(close_session)
        else:  # that thread is busy with waiting
            late = tuple(part.name for part in self._planned)
            await asyncio.get_running_loop().run_in_executor(None, close_session)
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._nats is not None:
            await self._nats.stop()
        if self._own_folder and not keep_logs:
            shutil.rmtree(self.folder, ignore_errors=True)
        return late

    def _delete(self) -> None:
        if not self._is_deployed:  # what has these names is somebody else's
            return
        from services.cluster.ray import serving

        gateway = application_name(self.settings, Part.GATEWAY)
        serving.delete([gateway])
        serving.delete([part.name for part in self._planned if part.name != gateway])
        if self._session is not None and self._session.is_ours:
            serving.shut_down()

    async def _blocking(self, call: Callable[[], T]) -> T:
        """Call Ray, one call at a time: a start that was given up ends before the stop begins."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _check_reach(settings: ClusterSettings, session: Session) -> None:
    """Refuse addresses that other machines of the cluster cannot use."""
    if session.is_one_machine:
        return
    if settings.nats.url is None:
        raise ConfigurationInvalid(
            key="nats.url",
            message="nats.url: this Ray cluster has other machines: name a NATS server that they reach",
        )
    if settings.edge.host.startswith(_LOOPBACK):
        raise ConfigurationInvalid(
            key="edge.host",
            message=f"edge.host: {settings.edge.host} can be reached from a gateway's own machine only, and "
            "this Ray cluster has others: use 0.0.0.0",
        )


def _too_late(elapsed_s: float, planned: Sequence[Application], seen: Mapping[str, "State"]) -> str:
    parts = "; ".join(
        f"{part.name}: {seen[part.name].running_count} of {part.replica_count}, {seen[part.name].message}"
        for part in planned
        if part.name in seen
    )
    return f"not ready after {elapsed_s:.0f} s: {parts or 'nothing of it is there'}"
