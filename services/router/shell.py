"""A router on its own: serves `RouterService` to gateways that hold none.

Comes in: a bus, a dialer for snapshots, questions over gRPC. Goes out: answers. Invariant: each question
is answered by the same pure call that a router inside a gateway makes.
Not here: the decisions (`services.router.router`), asking (`services.router.remote`).
"""

import grpc

from services.bus.port import Bus
from services.domain.blocks import KvSnapshot
from services.domain.errors import ConfigurationInvalid, WorkerLost
from services.domain.ids import GatewayId, WorkerId
from services.link.port import Dialer
from services.link.settings import LinkTls
from services.link.transport import server_credentials
from services.router.feed import Feed
from services.router.router import Router
from services.runtime.clock import Clock
from services.runtime.metrics import Meters
from services.runtime.tasks import Nursery
from services.wire.codec import (
    WireError,
    decode_query_from_proto,
    place_decode_response_to_proto,
    place_response_to_proto,
    placement_query_from_proto,
)
from services.wire.generated.baton.internal.v1 import router_pb2 as pb
from services.wire.generated.baton.internal.v1 import router_pb2_grpc

CONNECT_TIMEOUT_S = 5.0
CALLS_MAX = 1024
"""Questions answered at once; more are refused by gRPC, and their gateways fall back."""
STOP_GRACE_S = 1.0


class RouterServer(router_pb2_grpc.RouterServiceServicer):
    """A router, its feed and its gRPC server."""

    def __init__(
        self,
        router: Router,
        bus: Bus,
        dialer: Dialer,
        *,
        router_id: GatewayId,
        clock: Clock,
        meters: Meters,
        tls: LinkTls | None = None,
    ) -> None:
        """Put the parts together; nothing runs yet.

        Args:
            router: to be served; nobody else folds into it.
            bus: where fleet, KV events and queue are seen.
            dialer: opens the links over which snapshots are fetched.
            router_id: how this router names itself to workers.
            clock: by which statuses age.
            meters: of this process.
            tls: encryption, as of links; None answers in the clear.
        """
        self._router = router
        self._bus = bus
        self._dialer = dialer
        self._router_id = router_id
        self._clock = clock
        self._meters = meters
        self._tls = tls
        self._nursery = Nursery("router")
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str) -> str:
        """Follow the cluster and answer questions.

        Args:
            address: host:port to listen on; port 0 takes a free one.

        Returns:
            host:port that gateways connect to.

        Raises:
            ConfigurationInvalid: the address cannot be bound, or a certificate file cannot be used.
        """
        server = grpc.aio.server(maximum_concurrent_rpcs=CALLS_MAX, options=[("grpc.so_reuseport", 0)])
        router_pb2_grpc.add_RouterServiceServicer_to_server(self, server)
        try:
            port = self._bind(server, address)
        except RuntimeError as error:
            raise ConfigurationInvalid(key="router.address", message=f"{address}: {error}") from None
        await server.start()
        self._server = server
        feed = Feed(self._router, self._bus, snapshot=self._snapshot, clock=self._clock, meters=self._meters)
        self._nursery.start(feed.run(), "feed")
        return f"{address.rpartition(':')[0]}:{port}"

    def _bind(self, server: grpc.aio.Server, address: str) -> int:
        if self._tls is None:
            return server.add_insecure_port(address)
        credentials = server_credentials(self._tls, listener="router", meters=self._meters)
        return server.add_secure_port(address, credentials)

    async def stop(self) -> None:
        """Stop answering and following; idempotent."""
        await self._nursery.close()
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)
            self._server = None

    async def Place(  # noqa: N802  # named by the proto
        self, request: pb.PlaceRequest, context: grpc.aio.ServicerContext[pb.PlaceRequest, pb.PlaceResponse]
    ) -> pb.PlaceResponse:
        """Answer where a prompt is prefilled."""
        try:
            query = placement_query_from_proto(request)
        except WireError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        outcome = self._router.place(query, self._clock.now_s())
        return place_response_to_proto(outcome)

    async def PlaceDecode(  # noqa: N802  # named by the proto
        self,
        request: pb.PlaceDecodeRequest,
        context: grpc.aio.ServicerContext[pb.PlaceDecodeRequest, pb.PlaceDecodeResponse],
    ) -> pb.PlaceDecodeResponse:
        """Answer who continues a handed-over prompt."""
        try:
            query = decode_query_from_proto(request)
        except WireError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        outcome = self._router.place_decode(query, self._clock.now_s())
        return place_decode_response_to_proto(outcome)

    async def _snapshot(self, worker_id: WorkerId) -> KvSnapshot:
        view = self._router.fleet.get(worker_id)
        if view is None:
            raise WorkerLost(worker_id=worker_id, message=f"{worker_id} left the fleet")
        link = await self._dialer.connect(
            view.status.address, gateway_id=self._router_id, timeout_s=CONNECT_TIMEOUT_S
        )
        try:
            return await link.snapshot()
        finally:
            await link.close()
