"""Asks a router in another process, and one of its own while that gives no answer.

Comes in: queries, the address of a standalone router, a router to fall back to. Goes out: answers.
Invariant: every question is answered, within the timeout of one; a router that is silent is left alone for
`ASK_AGAIN_S`, so that a hanging one costs one question its time and not all of them.
Not here: serving the questions (`services.router.shell`).
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from services.domain.errors import Rejected
from services.domain.placement import DecodePlacement, DecodeQuery, Placement, PlacementQuery
from services.router.placer import Placer
from services.runtime.clock import Clock
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
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Prepare a channel; nothing is sent yet.

        Args:
            address: host:port of the router.
            backup: asked while that router is silent.
            clock: of this process.
            timeout_s: longest wait for an answer. A decision takes well under a millisecond, so a second
                means that the router is gone or drowned.
            credentials: TLS; None sends in the clear.
        """
        self._address = address
        self._backup = backup
        self._clock = clock
        self._timeout_s = timeout_s
        self._silent_until_s = clock.now_s()
        self._channel = (
            grpc.aio.insecure_channel(address)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials)
        )
        self._stub = router_pb2_grpc.RouterServiceStub(self._channel)

    async def place(self, query: PlacementQuery) -> Placement | Rejected:
        """Ask where a prompt is prefilled.

        Raises:
            ServingError: the router failed (a `Fault`), which it says itself.
        """
        try:
            outcome = await self._ask(
                lambda: self._stub.Place(placement_query_to_proto(query), timeout=self._timeout_s),
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
                lambda: self._stub.PlaceDecode(decode_query_to_proto(query), timeout=self._timeout_s),
                place_decode_response_from_proto,
            )
        except RouterSilent:
            return await self._backup.place_decode(query)
        if isinstance(outcome, DecodePlacement | Rejected):
            return outcome
        raise outcome

    async def close(self) -> None:
        """Close the channel; idempotent."""
        await self._channel.close()

    async def _ask(self, call: Callable[[], Awaitable[P]], read: Callable[[P], R]) -> R:
        """Ask unless the router is known to be silent.

        Raises:
            RouterSilent: it is, or it is now.
        """
        if self._clock.now_s() < self._silent_until_s:
            raise RouterSilent
        try:
            return read(await call())
        except grpc.aio.AioRpcError as error:
            why = f"{error.code().name}: {error.details()}"
        except WireError as error:
            why = str(error)
        self._silent_until_s = self._clock.now_s() + ASK_AGAIN_S
        log.warning("the router at %s gives no answer, deciding here: %s", self._address, why)
        raise RouterSilent
