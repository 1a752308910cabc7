"""The bus port on NATS: puts the parts together around one connection.

Comes in: settings. Goes out: a `NatsBus`. Invariant: when `close` returns, none of its tasks runs and
the connection is gone. Not here: how each part works.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from services.bus.inbox import ignore_drop
from services.bus.nats import streams
from services.bus.nats.connection import Connection, open_connection
from services.bus.nats.events import KvEvents
from services.bus.nats.orders import RoleOrders
from services.bus.nats.prefill_queue import JetStreamQueue
from services.bus.nats.queue_view import QueueViews
from services.bus.nats.registry import FleetRegistry
from services.bus.port import FleetChange
from services.bus.settings import BusSettings
from services.domain.blocks import KvEventBatch
from services.domain.errors import BusUnavailable
from services.domain.ids import WorkerId
from services.domain.worker import RoleOrder, WorkerStatus
from services.runtime.tasks import Nursery

_RETRY_S = 0.2
"""Between two tries to make the streams."""


class NatsBus:
    """One process's bus; `connect` makes it."""

    def __init__(self, connection: Connection, on_drop: Callable[[str], None]) -> None:
        self._connection = connection
        self._nursery = Nursery("bus")
        self._registry = FleetRegistry(connection, self._nursery, on_drop)
        self._events = KvEvents(connection, on_drop)
        self._orders = RoleOrders(connection, on_drop)
        self._queue = JetStreamQueue(connection, QueueViews(connection, self._nursery, on_drop), on_drop)

    @property
    def queue(self) -> JetStreamQueue:
        """The prefill queue."""
        return self._queue

    @property
    def connected(self) -> bool:
        """Whether the server answers, as far as is known now."""
        return self._connection.connected

    async def announce(self, status: WorkerStatus, *, ttl_s: float) -> None:
        """Publish or renew a worker's status; errors as the port says."""
        await self._registry.announce(status, ttl_s)

    async def withdraw(self, worker_id: WorkerId) -> None:
        """Remove a worker's status at once; errors as the port says."""
        await self._registry.withdraw(worker_id)

    def watch_fleet(self) -> AbstractAsyncContextManager[AsyncIterator[FleetChange]]:
        """Follow the fleet: first one `WorkerSeen` per known worker, then every change."""
        return self._registry.watch()

    async def publish_kv(self, batch: KvEventBatch) -> None:
        """Publish a batch of KV events, at most once; lost while the server is away."""
        await self._events.publish(batch)

    def watch_kv(self) -> AbstractAsyncContextManager[AsyncIterator[KvEventBatch]]:
        """Follow all workers' KV events from now on."""
        return self._events.watch()

    async def order_role(self, order: RoleOrder) -> None:
        """Tell a worker its role, at most once; lost while it or the server is away."""
        await self._orders.publish(order)

    def watch_roles(self, worker_id: WorkerId) -> AbstractAsyncContextManager[AsyncIterator[RoleOrder]]:
        """Follow the orders to one worker from now on."""
        return self._orders.watch(worker_id)

    async def close(self) -> None:
        """Leave the bus; watches end; idempotent."""
        self._registry.close()
        self._events.close()
        self._orders.close()
        await self._nursery.close()
        await self._connection.close()


async def connect(
    settings: BusSettings, *, name: str, on_drop: Callable[[str], None] = ignore_drop
) -> NatsBus:
    """Connect to NATS and make sure that the cluster's streams exist.

    Args:
        settings: where and as whom.
        name: of this process, for the server's list of clients.
        on_drop: told the name of a bound whenever a message is dropped at it.

    Raises:
        BusUnavailable: no server answered in time.
        ConfigurationInvalid: login, certificate, version or a stream is refused.
    """
    connection = await open_connection(settings, name=name)
    try:
        await _make_streams(connection)
    except BaseException:
        await connection.close()
        raise
    return NatsBus(connection, on_drop)


async def _make_streams(connection: Connection) -> None:
    """Make the streams, as soon as servers that were only just started can hold them."""
    refused: BusUnavailable | None = None
    try:
        async with asyncio.timeout(connection.settings.connect_timeout_s):
            while True:
                try:
                    return await streams.ensure(connection)
                except BusUnavailable as error:
                    refused = error
                await asyncio.sleep(_RETRY_S)
    except TimeoutError:
        raise refused or BusUnavailable(message="NATS did not answer in time") from None
