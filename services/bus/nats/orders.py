"""Orders to workers over plain NATS subjects: at most once, never stored.

Comes in: orders of this process; those to its own worker from the server. Goes out: the same.
Invariant: while the server is away an order is dropped and counted, not kept: it would be old when it
came. Not here: ordering again until a status shows it (whoever orders).
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import nats.errors
from nats.aio.msg import Msg

from services.bus.nats.connection import Connection
from services.bus.role_inbox import RoleInbox
from services.domain.ids import WorkerId
from services.domain.worker import RoleOrder
from services.wire.codec import WireError, decode_role_order, encode_role_order
from services.wire.subjects import Subjects

log = logging.getLogger(__name__)


class RoleOrders:
    """The order subjects of one cluster."""

    def __init__(self, connection: Connection, on_drop: Callable[[str], None]) -> None:
        self._connection = connection
        self._on_drop = on_drop
        self._subjects = Subjects(connection.settings.namespace)
        self._inboxes: list[RoleInbox] = []

    async def publish(self, order: RoleOrder) -> None:
        """Send an order, or drop it while the server is away."""
        if not self._connection.connected:
            self._on_drop("role_publish")
            return
        try:
            await self._connection.client.publish(
                self._subjects.role(order.worker_id), encode_role_order(order)
            )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.debug("order dropped: %r", error)
            self._on_drop("role_publish")

    @asynccontextmanager
    async def watch(self, worker_id: WorkerId) -> AsyncIterator[AsyncIterator[RoleOrder]]:
        """Listen from now on."""
        inbox = RoleInbox(worker_id)

        async def receive(message: Msg) -> None:
            try:
                inbox.put(decode_role_order(message.data))
            except WireError as error:
                log.warning("unreadable order at %s: %s", message.subject, error)
                self._on_drop("role_unreadable")

        subscription = await self._connection.client.subscribe(self._subjects.role(worker_id), cb=receive)
        self._inboxes.append(inbox)
        try:
            if self._connection.connected:  # otherwise the reconnect brings the subscription
                await self._connection.settle()
            yield inbox
        finally:
            self._inboxes.remove(inbox)
            inbox.close()
            if not self._connection.client.is_closed:
                await subscription.unsubscribe()

    def close(self) -> None:
        """End all watches."""
        for inbox in self._inboxes:
            inbox.close()
