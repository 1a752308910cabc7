"""The edge as one object: HTTP and gRPC in front of one `Serving`.

Comes in: settings, a `Serving`, meters and the models' assets. Goes out: two listening ports for clients, and
one for those who watch if it is asked for.
Invariant: `stop` leaves no task, thread, connection or port behind, in whatever state it is called.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from services.gateway.edge.admission import Admission
from services.gateway.edge.assets import ModelAssets
from services.gateway.edge.encryption import Encryption
from services.gateway.edge.generation import ActiveIds, Generation
from services.gateway.edge.grpc_server import GrpcServer
from services.gateway.edge.grpc_service import InferenceServicer
from services.gateway.edge.http_app import build_app, build_watch_app
from services.gateway.edge.http_server import HttpServer
from services.gateway.edge.inspection import Inspection
from services.gateway.edge.intake import Intake
from services.gateway.edge.openapi import describe
from services.gateway.edge.settings import EdgeSettings
from services.gateway.edge.tokenizing import Tokenizing
from services.gateway.port import Serving
from services.runtime.clock import Clock, LoopClock
from services.runtime.metrics import Meters


class EdgeServer:
    """The public face of one gateway.

    Counts `baton_requests_total`, client calls by outcome; all else is counted by the `Serving`.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        serving: Serving,
        meters: Meters,
        model_assets: Mapping[str, ModelAssets],
        *,
        clock: Clock | None = None,
    ) -> None:
        """Put the edge together; nothing listens yet.

        Args:
            settings: bounds and ports.
            serving: whoever answers; read at each call, so it may still be getting ready.
            meters: of this process.
            model_assets: by served model name.
            clock: for `Retry-After` and deadlines.

        Raises:
            ConfigurationInvalid: a certificate cannot be used.
        """
        clock = clock or LoopClock()
        encryption = None if settings.tls is None else Encryption(settings.tls, meters)
        self._admission = Admission(active_max=settings.requests_active_max, clock=clock)
        self._tokenizing = Tokenizing(settings)
        active_ids = ActiveIds()
        intake = Intake(
            settings=settings,
            serving=serving,
            assets=model_assets,
            tokenizing=self._tokenizing,
            clock=clock,
        )
        generation = Generation(
            settings=settings,
            serving=serving,
            intake=intake,
            admission=self._admission,
            active_ids=active_ids,
            meters=meters,
            clock=clock,
        )
        inspection = Inspection(
            serving=serving, admission=self._admission, meters=meters, openapi=describe(_version())
        )
        self._http = HttpServer(
            build_app(generation, inspection),
            settings,
            context=None if encryption is None else encryption.http_context(),
        )
        self._watched = (
            None
            if settings.metrics_port is None
            else HttpServer(build_watch_app(inspection), settings, port_key="metrics_port")
        )
        self._grpc = GrpcServer(
            InferenceServicer(
                settings=settings,
                serving=serving,
                intake=intake,
                admission=self._admission,
                active_ids=active_ids,
                meters=meters,
                clock=clock,
            ),
            settings,
            None if encryption is None else encryption.grpc_credentials(),
        )

    async def start(self) -> tuple[int, ...]:
        """Listen; give back the HTTP port, the gRPC port and, if there is one, that of metrics.

        Raises:
            ConfigurationInvalid: an address cannot be had; nothing listens then.
        """
        servers = [server for server in (self._http, self._grpc, self._watched) if server is not None]
        ports: list[int] = []
        try:
            for server in servers:
                ports.append(await server.start())  # noqa: PERF401  # those that listen are stopped below
        except BaseException:
            for server in servers[: len(ports)]:
                await server.stop()
            raise
        return tuple(ports)

    async def drain(self, timeout_s: float) -> bool:
        """Accept nothing new and wait for calls in progress.

        Returns:
            Whether all of them ended in time.
        """
        self._admission.draining = True
        http_done = await self._http.drain(timeout_s)
        grpc_done = await self._grpc.drain(timeout_s if http_done else 0.0)
        return http_done and grpc_done

    async def stop(self) -> None:
        """End everything now; calls in progress are cancelled."""
        self._admission.draining = True
        await self._grpc.stop()
        await self._http.stop()
        if self._watched is not None:  # last: while the others end it says so
            await self._watched.stop()
        self._tokenizing.close()


def _version() -> str:
    try:
        return version("baton-serve")
    except PackageNotFoundError:
        return "0"
