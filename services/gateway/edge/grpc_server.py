"""The gRPC server: one port with the inference service, health and reflection.

Comes in: a servicer. Goes out: served calls. Invariant: an address in use refuses the start (gRPC's
own default would share it); after `stop` nothing of it runs.
"""

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from services.domain.errors import ConfigurationInvalid
from services.gateway.edge.grpc_service import InferenceServicer
from services.gateway.edge.settings import EdgeSettings
from services.wire.generated.baton.v1 import inference_pb2, inference_pb2_grpc

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name


class GrpcServer:
    """Serves one servicer on one port."""

    def __init__(
        self,
        servicer: InferenceServicer,
        settings: EdgeSettings,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        """Prepare; nothing listens yet.

        Args:
            servicer: what is served.
            settings: address and bounds.
            credentials: encryption; None speaks in the clear.
        """
        self._servicer = servicer
        self._settings = settings
        self._credentials = credentials
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Listen; give back the port.

        Raises:
            ConfigurationInvalid: the address cannot be had.
        """
        settings = self._settings
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", settings.body_bytes_max),
                ("grpc.max_concurrent_streams", settings.requests_active_max),
            ],
            maximum_concurrent_rpcs=settings.connections_max,
        )
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self._servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        address = f"{settings.host}:{settings.grpc_port}"
        try:
            port: int = (
                server.add_insecure_port(address)
                if self._credentials is None
                else server.add_secure_port(address, self._credentials)
            )
        except RuntimeError:
            raise ConfigurationInvalid(
                key="edge.grpc_port", message=f"edge.grpc_port: cannot listen on {address}"
            ) from None
        await server.start()
        self._server = server
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def drain(self, timeout_s: float) -> bool:
        """Accept nothing new, wait for the rest.

        Returns:
            Whether all calls ended in time; those that did not were cancelled.
        """
        if self._server is None:
            return True
        await self._health.enter_graceful_shutdown()
        await self._server.stop(timeout_s)
        self._server = None
        return self._servicer.active_count == 0

    async def stop(self) -> None:
        """Cancel all calls and end."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None
