"""The edge as one object: HTTP and gRPC in front of one `Serving`.

Comes in: settings, a `Serving`, meters and the models' assets. Goes out: two listening ports.
Invariant: `stop` leaves no task, thread, connection or port behind, in whatever state it is called.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from services.gateway.edge.admission import Admission
from services.gateway.edge.assets import ModelAssets
from services.gateway.edge.generation import ActiveIds, Generation
from services.gateway.edge.grpc_server import GrpcServer
from services.gateway.edge.grpc_service import InferenceServicer
from services.gateway.edge.http_app import build_app
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
        """
        clock = clock or LoopClock()
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
        self._http = HttpServer(build_app(generation, inspection), settings)
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
        )

    async def start(self) -> tuple[int, int]:
        """Listen; give back the HTTP and the gRPC port.

        Raises:
            ConfigurationInvalid: an address cannot be had; nothing listens then.
        """
        http_port = await self._http.start()
        try:
            return http_port, await self._grpc.start()
        except BaseException:
            await self._http.stop()
            raise

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
        self._tokenizing.close()


def _version() -> str:
    try:
        return version("baton-serve")
    except PackageNotFoundError:
        return "0"
