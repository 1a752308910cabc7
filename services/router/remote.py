"""Asks a router in another process.

Comes in: queries, the address of a standalone router. Goes out: its answers. Invariant: every question
is answered within its timeout; a router that does not answer is a `NotReady` like any other.
Not here: serving the questions (`services.router.shell`).
"""

from collections.abc import Awaitable
from typing import TypeVar

import grpc

from services.domain.errors import NotReady, Rejected
from services.domain.placement import DecodePlacement, DecodeQuery, Placement, PlacementQuery
from services.wire.codec import (
    WireError,
    decode_query_to_proto,
    place_decode_response_from_proto,
    place_response_from_proto,
    placement_query_to_proto,
)
from services.wire.generated.baton.internal.v1 import router_pb2_grpc

R = TypeVar("R")

RETRY_AFTER_S = 1.0
"""What a client is told when the router is silent: about the time its replacement takes to be found."""


class RemotePlacer:
    """A standalone router; implements `services.router.placer.Placer`."""

    def __init__(
        self, address: str, *, timeout_s: float = 1.0, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        """Prepare a channel; nothing is sent yet.

        Args:
            address: host:port of the router.
            timeout_s: longest wait for an answer. A decision takes well under a millisecond, so a second
                means that the router is gone or drowned.
            credentials: TLS; None sends in the clear.
        """
        self._address = address
        self._timeout_s = timeout_s
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
        reply = await self._ask(self._stub.Place(placement_query_to_proto(query), timeout=self._timeout_s))
        if isinstance(reply, NotReady):
            return reply
        try:
            outcome = place_response_from_proto(reply)
        except WireError as error:
            return self._silent(str(error))
        if isinstance(outcome, Placement | Rejected):
            return outcome
        raise outcome

    async def place_decode(self, query: DecodeQuery) -> DecodePlacement | Rejected:
        """Ask who continues a handed-over prompt.

        Raises:
            ServingError: the router failed (a `Fault`), which it says itself.
        """
        reply = await self._ask(self._stub.PlaceDecode(decode_query_to_proto(query), timeout=self._timeout_s))
        if isinstance(reply, NotReady):
            return reply
        try:
            outcome = place_decode_response_from_proto(reply)
        except WireError as error:
            return self._silent(str(error))
        if isinstance(outcome, DecodePlacement | Rejected):
            return outcome
        raise outcome

    async def close(self) -> None:
        """Close the channel; idempotent."""
        await self._channel.close()

    async def _ask(self, call: Awaitable[R]) -> R | NotReady:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            return self._silent(f"{error.code().name}: {error.details()}")

    def _silent(self, why: str) -> NotReady:
        return NotReady(
            message=f"the router at {self._address} gives no answer ({why})", retry_after_s=RETRY_AFTER_S
        )
