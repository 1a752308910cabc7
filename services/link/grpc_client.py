"""A gateway's end of a link over gRPC.

Comes in: the address of a worker. Goes out: a `WorkerLink`. Invariant: a link that ends for whatever
reason ends its iterator without an error, refuses to send, and leaves no task and no connection behind.
Not here: when to connect again (`services.gateway`).
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc

from services.domain.blocks import KvSnapshot
from services.domain.errors import WorkerLost
from services.domain.ids import EngineEpoch, GatewayId, WorkerId
from services.domain.link import Hello, ToGateway, ToWorker, Welcome
from services.link.outbox import Outbox
from services.link.port import SNAPSHOT_TIMEOUT_S
from services.link.settings import LinkSettings
from services.link.transport import ATTACH, SNAPSHOT, channel_credentials, channel_options, check_size
from services.wire.codec import (
    WireError,
    decode_snapshot,
    decode_to_gateway,
    encode_to_worker,
)

log = logging.getLogger(__name__)

Stream = grpc.aio.StreamStreamCall[bytes, bytes]

# What grpc.aio raises when a call has ended: with a status, or while it was being used.
_ENDED = (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError)


class GrpcDialer:
    """Opens links over gRPC; each has a connection of its own."""

    def __init__(self, settings: LinkSettings) -> None:
        self._settings = settings

    async def connect(self, address: str, *, gateway_id: GatewayId, timeout_s: float) -> "GrpcWorkerLink":
        """Open a link and exchange `Hello` and `Welcome`.

        Raises:
            WorkerLost: nobody answered in time, or not as a worker does.
            ConfigurationInvalid: a certificate file cannot be read.
        """
        channel = self._channel(address)
        link: GrpcWorkerLink | None = None
        try:
            async with asyncio.timeout(timeout_s):
                call: Stream = channel.stream_stream(ATTACH)()
                await call.write(encode_to_worker(Hello(gateway_id=gateway_id)))
                welcome = _welcome(await call.read())
            link = GrpcWorkerLink(channel, call, welcome, self._settings)
        except TimeoutError:
            raise _lost(address, f"no answer from {address} within {timeout_s:.3g} s") from None
        except grpc.aio.AioRpcError as error:
            reason = error.details() or error.code().name
            raise _lost(address, f"cannot connect to {address}: {reason}") from None
        except (WireError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise _lost(address, f"{address} did not answer as a worker: {error}") from None
        finally:
            if link is None:
                await channel.close()
        return link

    def _channel(self, address: str) -> grpc.aio.Channel:
        options = channel_options(self._settings)
        if self._settings.tls is None:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, channel_credentials(self._settings.tls), options=options)


class GrpcWorkerLink:
    """One open link; made by `GrpcDialer.connect`."""

    def __init__(
        self, channel: grpc.aio.Channel, call: Stream, welcome: Welcome, settings: LinkSettings
    ) -> None:
        self.worker_id: WorkerId = welcome.worker_id
        self.epoch: EngineEpoch = welcome.epoch
        self._channel = channel
        self._call = call
        self._settings = settings
        self._outbox = Outbox()
        self._closed = False
        self._reading = False
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._writer = loop.create_task(self._write(), name=f"link:{self.worker_id}:write")
        self._ending: asyncio.Task[None] | None = None
        call.add_done_callback(lambda _: self._end(flush=False))

    def send(self, message: ToWorker) -> bool:
        """Queue a message; False when the link is closed and the message went nowhere.

        Raises:
            BodyTooLarge: the message is larger than a link carries.
        """
        if self._closed:
            return False
        if self._outbox.put(check_size(encode_to_worker(message), self._settings)):
            return True
        log.warning("link to %s: too many messages wait, closing", self.worker_id)
        self._end(flush=False)
        return False

    async def messages(self) -> AsyncIterator[ToGateway]:
        """Iterate over the worker's messages until the link ends. One iteration per link."""
        self._reading = True
        try:
            while (data := await self._read()) is not None:
                if self._closed:
                    continue
                yield decode_to_gateway(data)
        except WireError as error:
            log.warning("link to %s: %s, closing", self.worker_id, error)
        finally:
            self._reading = False
        self._end(flush=False)

    async def snapshot(self) -> KvSnapshot:
        """Ask for everything the worker's cache holds.

        Raises:
            WorkerLost: the link ended first or the worker took longer than `SNAPSHOT_TIMEOUT_S`.
        """
        if self._closed:
            raise _lost(self.worker_id, f"the link to {self.worker_id} is closed")
        ask: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(SNAPSHOT)
        call = ask(b"")
        reader = asyncio.get_running_loop().create_task(self._read_snapshot(call))
        try:
            waits: set[asyncio.Future[object]] = {reader, self._ended}  # type: ignore[arg-type]  # invariance
            await asyncio.wait(waits, timeout=SNAPSHOT_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                raise _lost(self.worker_id, f"no snapshot from {self.worker_id}")
            return reader.result()
        except (*_ENDED, WireError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not reader.cancelled():
                raise
            raise _lost(self.worker_id, f"no snapshot from {self.worker_id}: {error}") from None
        finally:
            call.cancel()
            reader.cancel()
            await asyncio.wait({reader})

    async def close(self) -> None:
        """End the link; idempotent. What was sent before is still delivered to a worker that reads."""
        self._end(flush=True)
        if self._ending is not None:
            await asyncio.shield(self._ending)

    async def _read(self) -> bytes | None:
        """Read one message; None when the call ended, also when we ended it."""
        try:
            data = await self._call.read()
        except _ENDED:
            return None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._call.cancelled() or task is None or task.cancelling():
                raise
            return None
        return data if isinstance(data, bytes) else None

    async def _read_snapshot(self, call: grpc.aio.UnaryStreamCall[bytes, bytes]) -> KvSnapshot:
        return await decode_snapshot(aiter(call), blocks_max=self._settings.snapshot_blocks_max)

    async def _write(self) -> None:
        try:
            while (data := await self._outbox.take()) is not None:
                await self._call.write(data)
            await self._call.done_writing()
        except _ENDED:
            self._end(flush=False)

    def _end(self, *, flush: bool) -> None:
        """Close once; what happens after the first call goes on by itself."""
        if self._closed:
            return
        self._closed = True
        if flush:
            self._outbox.finish()
        else:
            self._outbox.discard()
        self._ended.set_result(None)
        name = f"link:{self.worker_id}:end"
        self._ending = asyncio.get_running_loop().create_task(self._shut(flush=flush), name=name)
        _ENDING.add(self._ending)
        self._ending.add_done_callback(_ENDING.discard)

    async def _shut(self, *, flush: bool) -> None:
        if flush:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.close_timeout_s):
                    await asyncio.wait({self._writer})
                    await self._drain()
        self._call.cancel()
        self._writer.cancel()
        await asyncio.wait({self._writer})
        await self._channel.close()

    async def _drain(self) -> None:
        """Read to the end of the call, so that the worker is seen to have read ours."""
        if self._reading:
            await self._call.code()
            return
        while await self._read() is not None:
            pass


_ENDING: set[asyncio.Task[None]] = set()
"""Links that are being closed: the event loop itself holds tasks only weakly."""


def _welcome(data: object) -> Welcome:
    if not isinstance(data, bytes):
        raise WireError(field="ToGateway.welcome", message="the stream ended before a welcome")
    message = decode_to_gateway(data)
    if not isinstance(message, Welcome):
        raise WireError(field="ToGateway.welcome", message=f"{type(message).__name__} came before a welcome")
    return message


def _lost(worker_id: str, message: str) -> WorkerLost:
    return WorkerLost(worker_id=worker_id, message=message)
