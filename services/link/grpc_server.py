"""A worker's end of all its links over gRPC.

Comes in: gateways that attach. Goes out: calls to the worker's endpoint. Invariant: every link that was
opened is closed exactly once, whoever ended it; a gateway holds one link at most.
Not here: what the messages mean (`services.worker`).
"""

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc

from services.domain.errors import ConfigurationInvalid, InternalFault
from services.domain.ids import GatewayId
from services.domain.link import Hello, ToGateway, Welcome
from services.link.outbox import Outbox
from services.link.port import WorkerEndpoint
from services.link.settings import LinkSettings, join_address
from services.link.transport import SERVICE, check_size, server_credentials, server_options
from services.runtime.metrics import Meters
from services.wire.codec import (
    WireError,
    decode_to_worker,
    encode_snapshot,
    encode_to_gateway,
)

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[object, bytes]


class GrpcGatewayLink:
    """One attached gateway; made by `GrpcLinkServer`."""

    def __init__(self, gateway_id: GatewayId, endpoint: WorkerEndpoint, settings: LinkSettings) -> None:
        self.gateway_id = gateway_id
        self._endpoint = endpoint
        self._settings = settings
        self._outbox = Outbox()
        self._closed = False
        self._told = False
        self._dropped = asyncio.Event()

    def send(self, message: ToGateway) -> bool:
        """Queue a message; False when the link is closed and the message went nowhere.

        Raises:
            BodyTooLarge: the message is larger than a link carries.
        """
        if self._closed:
            return False
        if self._outbox.put(check_size(encode_to_gateway(message), self._settings)):
            return True
        log.warning("link to %s: too many messages wait, closing", self.gateway_id)
        self._shut(flush=False)
        return False

    def end(self, *, flush: bool) -> None:
        """Close the link and tell the endpoint; idempotent.

        Args:
            flush: whether what waits is still written.
        """
        self._shut(flush=flush)
        if not self._told:
            self._told = True
            self._endpoint.closed(self)

    def _shut(self, *, flush: bool) -> None:
        """Send nothing more; `run` notices and tells the endpoint, which may be the caller just now."""
        if self._closed:
            return
        self._closed = True
        if flush:
            self._outbox.finish()
        else:
            self._outbox.discard()
            self._dropped.set()

    async def run(self, context: Context) -> None:
        """Carry messages both ways until one side ends the link."""
        read, write, drop = (
            asyncio.create_task(work, name=f"link:{self.gateway_id}:{name}")
            for name, work in (
                ("read", self._read(context)),
                ("write", self._write(context)),
                ("drop", self._wait_dropped()),
            )
        )
        try:
            done, _ = await asyncio.wait((read, write, drop), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.end(flush=False)
            read.cancel()
            drop.cancel()
            # The call's status cannot be sent beside a message: the gateway would never hear of the end.
            await asyncio.wait((write,), timeout=self._settings.close_timeout_s)
            write.cancel()
            await asyncio.gather(read, write, drop, return_exceptions=True)

    async def _read(self, context: Context) -> None:
        while isinstance(data := await context.read(), bytes):
            message = decode_to_worker(data)
            if self._closed:
                return
            self._endpoint.received(self, message)

    async def _write(self, context: Context) -> None:
        while (data := await self._outbox.take()) is not None:
            await context.write(data)

    async def _wait_dropped(self) -> None:
        await self._dropped.wait()


class GrpcLinkServer:
    """Listens for gateways."""

    def __init__(self, settings: LinkSettings, *, meters: Meters | None = None) -> None:
        """Prepare; nothing listens yet.

        Args:
            settings: address, limits, encryption.
            meters: of this process; they tell of its certificate.
        """
        self._settings = settings
        self._meters = meters
        self._links: dict[GatewayId, GrpcGatewayLink] = {}
        self._server: grpc.aio.Server | None = None
        self._endpoint: WorkerEndpoint | None = None

    async def serve(self, endpoint: WorkerEndpoint) -> str:
        """Start listening; returns the address (host:port) that gateways connect to.

        Raises:
            ConfigurationInvalid: the address cannot be bound, or a certificate file cannot be read.
            InternalFault: it listens already.
        """
        if self._server is not None:
            raise InternalFault(message="the link server listens already")
        settings = self._settings
        server = grpc.aio.server(options=server_options(settings), maximum_concurrent_rpcs=settings.calls_max)
        handlers: dict[str, grpc.RpcMethodHandler[object, bytes]] = {
            "Attach": grpc.stream_stream_rpc_method_handler(self._attach),
            "GetKvSnapshot": grpc.unary_stream_rpc_method_handler(self._snapshot),
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        wanted = join_address(settings.host, settings.port)
        try:
            port = self._bind(server, wanted)
        except RuntimeError as error:
            await server.stop(None)
            raise ConfigurationInvalid(
                key="link.port", message=f"link.host, link.port: cannot listen on {wanted}: {error}"
            ) from None
        self._endpoint, self._server = endpoint, server
        await server.start()
        return join_address(settings.advertised_host or settings.host, port)

    async def close(self) -> None:
        """Close all links, sending what waits within `close_timeout_s`, and stop listening; idempotent."""
        server, self._endpoint = self._server, None
        if server is None:
            return
        for link in tuple(self._links.values()):
            link.end(flush=True)
        await server.stop(self._settings.close_timeout_s)
        self._server = None

    def _bind(self, server: grpc.aio.Server, address: str) -> int:
        if self._settings.tls is None:
            return server.add_insecure_port(address)
        credentials = server_credentials(self._settings.tls, listener="link", meters=self._meters)
        return server.add_secure_port(address, credentials)

    async def _attach(self, _: AsyncIterator[bytes], context: Context) -> None:
        try:
            gateway_id = await self._hello(context)
            endpoint = self._endpoint
            if endpoint is None:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the worker stops")
            link = self._open(gateway_id, endpoint)
            try:
                await link.run(context)
            finally:
                if self._links.get(gateway_id) is link:
                    del self._links[gateway_id]
        except WireError as error:
            log.warning("link of %s: %s, closing", context.peer(), error)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def _hello(self, context: Context) -> GatewayId:
        try:
            async with asyncio.timeout(self._settings.hello_timeout_s):
                data = await context.read()
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no hello in time")
        message = decode_to_worker(data) if isinstance(data, bytes) else None
        if not isinstance(message, Hello):
            raise WireError(field="ToWorker.hello", message="the first message of a link is a hello")
        return message.gateway_id

    def _open(self, gateway_id: GatewayId, endpoint: WorkerEndpoint) -> GrpcGatewayLink:
        older = self._links.pop(gateway_id, None)
        if older is not None:
            older.end(flush=False)
        link = GrpcGatewayLink(gateway_id, endpoint, self._settings)
        link.send(Welcome(worker_id=endpoint.worker_id, epoch=endpoint.epoch))
        endpoint.opened(link)
        self._links[gateway_id] = link
        return link

    async def _snapshot(self, _: bytes, context: Context) -> AsyncIterator[bytes]:
        endpoint = self._endpoint
        if endpoint is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the worker stops")
        for chunk in encode_snapshot(endpoint.snapshot()):
            yield chunk
