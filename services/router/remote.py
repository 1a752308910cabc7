"""Asks a router in another process, and one of its own while that gives no answer.

Comes in: queries, the address of a standalone router, a router to fall back to. Goes out: answers.
Invariant: every question is answered, within the timeout of one; a router that is silent is left alone for
`ASK_AGAIN_S`, so that a hanging one costs one question its time and not all of them.
Not here: serving the questions (`services.router.shell`).
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

import grpc

from services.domain.errors import ConfigurationInvalid, Rejected
from services.domain.placement import DecodePlacement, DecodeQuery, Placement, PlacementQuery
from services.link.settings import LinkTls
from services.link.transport import channel_credentials, name_options
from services.router.placer import Placer
from services.runtime.clock import Clock
from services.runtime.tasks import Nursery
from services.wire.codec import (
    WireError,
    decode_query_to_proto,
    place_decode_response_from_proto,
    place_response_from_proto,
    placement_query_to_proto,
)
from services.wire.generated.baton.internal.v1 import router_pb2_grpc

log = logging.getLogger(__name__)

P = TypeVar("P")
R = TypeVar("R")
Stub: TypeAlias = "router_pb2_grpc.RouterServiceAsyncStub"

ASK_AGAIN_S = 1.0
"""How long a silent router is not asked: about what its replacement takes to come up."""


class RouterSilent(Exception):
    """The router gave no answer that can be used."""


class RemotePlacer:
    """A standalone router; implements `services.router.placer.Placer`."""

    def __init__(
        self,
        address: str,
        *,
        backup: Placer,
        clock: Clock,
        timeout_s: float = 1.0,
        tls: LinkTls | None = None,
    ) -> None:
        """Prepare a channel; nothing is sent yet.

        Args:
            address: host:port of the router.
            backup: asked while that router is silent.
            clock: of this process.
            timeout_s: longest wait for an answer. A decision takes well under a millisecond, so a second
                means that the router is gone or drowned.
            tls: encryption, as of links; None sends in the clear.

        Raises:
            ConfigurationInvalid: a certificate file cannot be read.
        """
        self._address = address
        self._backup = backup
        self._clock = clock
        self._timeout_s = timeout_s
        self._tls = tls
        self._silent_until_s = clock.now_s()
        self._leaving = Nursery("placer")
        self._channel = self._open()
        self._stub = router_pb2_grpc.RouterServiceStub(self._channel)

    async def place(self, query: PlacementQuery) -> Placement | Rejected:
        """Ask where a prompt is prefilled.

        Raises:
            ServingError: the router failed (a `Fault`), which it says itself.
        """
        try:
            outcome = await self._ask(
                lambda stub: stub.Place(placement_query_to_proto(query), timeout=self._timeout_s),
                place_response_from_proto,
            )
        except RouterSilent:
            return await self._backup.place(query)
        if isinstance(outcome, Placement | Rejected):
            return outcome
        raise outcome

    async def place_decode(self, query: DecodeQuery) -> DecodePlacement | Rejected:
        """Ask who continues a handed-over prompt.

        Raises:
            ServingError: the router failed (a `Fault`), which it says itself.
        """
        try:
            outcome = await self._ask(
                lambda stub: stub.PlaceDecode(decode_query_to_proto(query), timeout=self._timeout_s),
                place_decode_response_from_proto,
            )
        except RouterSilent:
            return await self._backup.place_decode(query)
        if isinstance(outcome, DecodePlacement | Rejected):
            return outcome
        raise outcome

    async def close(self) -> None:
        """Close the channel; idempotent."""
        await self._leaving.close()
        await self._channel.close()

    def _open(self) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(self._address)
        # A pool of its own: a connection made with certificates of before is not taken over.
        options = [("grpc.use_local_subchannel_pool", 1), *name_options(self._tls)]
        return grpc.aio.secure_channel(self._address, channel_credentials(self._tls), options=options)

    def _reopen(self, used: Stub) -> None:
        """After a silence take the certificates that are there now: those of the channel may have ended."""
        if self._tls is None or used is not self._stub:
            return
        left = self._channel
        try:
            self._channel = self._open()
        except ConfigurationInvalid as error:
            log.warning("the certificates of before are kept: %s", error)
            return
        self._stub = router_pb2_grpc.RouterServiceStub(self._channel)
        self._leaving.start(left.close(self._timeout_s), "close")  # others may still wait there

    async def _ask(self, call: Callable[[Stub], Awaitable[P]], read: Callable[[P], R]) -> R:
        """Ask unless the router is known to be silent.

        Raises:
            RouterSilent: it is, or it is now.
        """
        if self._clock.now_s() < self._silent_until_s:
            raise RouterSilent
        stub = self._stub
        try:
            return read(await call(stub))
        except grpc.aio.AioRpcError as error:
            why = f"{error.code().name}: {error.details()}"
        except WireError as error:
            why = str(error)
        self._silent_until_s = self._clock.now_s() + ASK_AGAIN_S
        self._reopen(stub)
        log.warning("the router at %s gives no answer, deciding here: %s", self._address, why)
        raise RouterSilent
