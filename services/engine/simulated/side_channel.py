"""The side channel: one UDP datagram tells an engine in another process that a lease may end.

Comes in: datagrams with a ticket id. Goes out: the end of that lease. As with NIXL's notifications the
blocks stay until it arrives; a lost one costs the rest of the lease and nothing else.
Invariant: a datagram can end a lease, never anything more. Not here: who pulls what.
"""

import asyncio
from collections.abc import Callable

from services.domain.errors import EngineFailed
from services.domain.ids import TicketId, WorkerId

_DATAGRAM_BYTES_MAX = 512


class SideChannel(asyncio.DatagramProtocol):
    """One engine's socket."""

    def __init__(self, on_pulled: Callable[[TicketId], object]) -> None:
        self._on_pulled = on_pulled
        self._transport: asyncio.DatagramTransport | None = None
        self.address: str | None = None
        """host:port, once open."""

    async def open(self, host: str, worker_id: WorkerId) -> None:
        """Listen on a free port.

        Raises:
            EngineFailed: the host cannot be bound.
        """
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(host, 0))
        except OSError as error:
            raise EngineFailed(
                worker_id=worker_id,
                message=f"side_channel_host: cannot listen on {host!r}: {error}; name a local address",
            ) from error
        self._transport = transport
        bound_host, bound_port = transport.get_extra_info("sockname")[:2]
        self.address = f"{bound_host}:{bound_port}"

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        """End the lease that a puller names."""
        if len(data) <= _DATAGRAM_BYTES_MAX:
            self._on_pulled(TicketId(data.decode("utf-8", errors="replace")))

    def tell_pulled(self, address: str, ticket_id: TicketId) -> None:
        """Tell the engine at `address` that a lease may end; does nothing when not open."""
        host, _, port = address.rpartition(":")
        if self._transport is not None and port.isdigit():
            self._transport.sendto(ticket_id.encode(), (host, int(port)))

    def close(self) -> None:
        """Close the socket. Idempotent."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None
