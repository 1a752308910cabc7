"""Follow the newest value of every subject of a stream, over reconnects and restarts.

Comes in: a stream and a filter. Goes out: to a sink, first all present values, then each change.
Invariant: what the sink was told becomes what the stream holds: whenever messages may have been missed
(gap, silence, reconnect, server restarted), the whole state is read again and the sink is given the
list of what is present. Not here: what values mean.
"""

import asyncio
import logging
from collections.abc import Mapping, Set
from typing import Protocol

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy

from services.bus.nats.connection import Connection
from services.bus.nats.streams import ask
from services.domain.errors import BusUnavailable, ConfigurationInvalid

log = logging.getLogger(__name__)

SILENT_HEARTBEATS = 3
"""Missing signs of life after which a watch counts as dead."""

_RETRY_S = 0.2
_INACTIVE_S = 30.0
_PENDING_MESSAGES_MAX = 262_144
_PENDING_BYTES_MAX = 256 * 1024 * 1024


class Sink(Protocol):
    """Who is told. Calls come one after another and must not block or raise."""

    def put(self, subject: str, value: bytes, revision: int, headers: Mapping[str, str]) -> None:
        """A subject has this value now; the revision is the stream's sequence number."""
        ...

    def gone(self, subject: str) -> None:
        """A subject was removed or expired."""
        ...

    def complete(self, present: Set[str]) -> None:
        """The whole state has been read; every subject that is not in the set is gone."""
        ...


class Follower:
    """One watch. `run` it as a task; it ends when cancelled."""

    def __init__(self, connection: Connection, *, stream: str, subjects: str, sink: Sink) -> None:
        self._connection = connection
        self._stream = stream
        self._subjects = subjects
        self._sink = sink
        self._alive = asyncio.Event()
        self._stale = asyncio.Event()
        self._present: set[str] | None = None
        self._expected: int | None = None
        self._last = 0
        self.completed = asyncio.Event()
        """Set once the sink has been given the whole state for the first time."""

    async def run(self) -> None:
        """Follow until cancelled."""
        forget = self._connection.on_reconnect(self._stale.set)
        try:
            while True:
                await self._follow_once()
        finally:
            forget()

    async def _follow_once(self) -> None:
        self._stale.clear()
        self._alive.clear()
        self._present, self._expected, self._last = set(), None, 0
        subscription: Subscription | None = None
        consumer: str | None = None
        try:
            inbox = self._connection.client.new_inbox()
            subscription = await self._connection.client.subscribe(
                inbox,
                cb=self._receive,
                pending_msgs_limit=_PENDING_MESSAGES_MAX,
                pending_bytes_limit=_PENDING_BYTES_MAX,
            )
            consumer = (info := await self._open(inbox)).name
            self._expected = info.num_pending or 0
            self._check_complete()
            await self._wait_until_stale()
        except (BusUnavailable, ConfigurationInvalid, nats.errors.Error) as error:
            log.debug("cannot follow %s: %s", self._stream, error)
            await self._pause()
        finally:
            await self._leave(subscription, consumer)

    async def _open(self, inbox: str) -> ConsumerInfo:
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            ack_policy=AckPolicy.NONE,
            deliver_subject=inbox,
            filter_subject=self._subjects,
            idle_heartbeat=self._connection.settings.heartbeat_s,
            inactive_threshold=_INACTIVE_S,
            mem_storage=True,
            num_replicas=1,
        )
        return await ask(self._connection, lambda js: js.add_consumer(self._stream, config))

    async def _wait_until_stale(self) -> None:
        silence_s = SILENT_HEARTBEATS * self._connection.settings.heartbeat_s
        while not self._stale.is_set():
            self._alive.clear()
            try:
                async with asyncio.timeout(silence_s):
                    await self._alive.wait()
            except TimeoutError:
                log.info("the watch of %s is silent: opening it anew", self._stream)
                return

    async def _pause(self) -> None:
        """Wait for a reconnect, or a moment."""
        try:
            async with asyncio.timeout(_RETRY_S):
                await self._stale.wait()
        except TimeoutError:
            return

    async def _leave(self, subscription: Subscription | None, consumer: str | None) -> None:
        """Give up subscription and consumer; the server forgets what does not reach it by itself."""
        try:
            if subscription is not None:
                await subscription.unsubscribe()
            if consumer is not None and self._connection.connected:
                await self._connection.ask(lambda js: js.delete_consumer(self._stream, consumer))
        except (BusUnavailable, nats.errors.Error, nats.js.errors.APIError) as error:
            log.debug("left the watch of %s: %s", self._stream, error)

    async def _receive(self, message: Msg) -> None:
        headers: Mapping[str, str] = message.headers or {}
        if "Status" in headers:
            self._heartbeat(headers)
        else:
            self._value(message, headers)
        self._alive.set()

    def _heartbeat(self, headers: Mapping[str, str]) -> None:
        if headers.get("Nats-Last-Consumer") != str(self._last):
            self._mark_stale()
        elif self._expected is not None:
            self._expected = min(self._expected, self._last)
            self._check_complete()

    def _value(self, message: Msg, headers: Mapping[str, str]) -> None:
        place = message.metadata.sequence
        if place.consumer != self._last + 1:
            self._mark_stale()
            return
        self._last = place.consumer
        if "KV-Operation" in headers or "Nats-Marker-Reason" in headers:
            if self._present is not None:
                self._present.discard(message.subject)
            self._sink.gone(message.subject)
        else:
            if self._present is not None:
                self._present.add(message.subject)
            self._sink.put(message.subject, message.data, place.stream, headers)
        self._check_complete()

    def _mark_stale(self) -> None:
        self._stale.set()
        self._alive.set()

    def _check_complete(self) -> None:
        if self._present is None or self._expected is None or self._last < self._expected:
            return
        present, self._present = self._present, None
        self._sink.complete(present)
        self.completed.set()
