"""KV events over plain NATS subjects: in order, at most once, never stored.

Comes in: batches of this process's worker; everybody's from the server. Goes out: the same.
Invariant: while the server is away batches are dropped and counted, not kept; a listener that falls
behind loses the oldest. The numbers inside the batches show both. Not here: mending a gap.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import nats.errors
from nats.aio.msg import Msg

from services.bus.inbox import Inbox
from services.bus.nats.connection import Connection
from services.domain.blocks import KvEventBatch
from services.wire.codec import WireError, decode_kv_batch, encode_kv_batch
from services.wire.subjects import Subjects

log = logging.getLogger(__name__)


class KvEvents:
    """The KV event subjects of one cluster."""

    def __init__(self, connection: Connection, on_drop: Callable[[str], None]) -> None:
        self._connection = connection
        self._on_drop = on_drop
        self._subjects = Subjects(connection.settings.namespace)
        self._inboxes: list[Inbox[KvEventBatch]] = []

    async def publish(self, batch: KvEventBatch) -> None:
        """Send a batch, or drop it while the server is away."""
        if not self._connection.connected:
            self._on_drop("kv_publish")
            return
        try:
            await self._connection.client.publish(self._subjects.kv(batch.worker_id), encode_kv_batch(batch))
        except (nats.errors.Error, OSError, TimeoutError) as error:
            log.debug("KV events dropped: %r", error)
            self._on_drop("kv_publish")

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[KvEventBatch]]:
        """Listen from now on."""
        inbox: Inbox[KvEventBatch] = Inbox(
            self._connection.settings.limits.kv_batches_max, lambda: self._on_drop("kv_inbox")
        )

        async def receive(message: Msg) -> None:
            try:
                inbox.put(decode_kv_batch(message.data))
            except WireError as error:
                log.warning("unreadable KV events at %s: %s", message.subject, error)
                self._on_drop("kv_unreadable")

        subscription = await self._connection.client.subscribe(self._subjects.kv_all, cb=receive)
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
