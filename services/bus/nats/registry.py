"""Fleet membership in a key-value bucket whose keys live as long as they are renewed.

Comes in: statuses of this process's worker; the bucket's changes. Goes out: renewals; the changes for
each watcher. Invariant: a status lives `ttl_s` after its last renewal, rounded up to whole seconds as
the server counts them; a bucket that was lost with its server does not empty the fleet: a worker that
is missing from it leaves when it was not renewed within its time to live.
Not here: what a status says.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping, Set
from contextlib import asynccontextmanager

import nats.js.errors

from services.bus.fleet_feed import FleetFeed
from services.bus.nats.connection import Connection
from services.bus.nats.follower import Follower
from services.bus.nats.streams import MARKER_TTL_S, ask
from services.bus.port import FleetChange
from services.domain.errors import BusUnavailable, Saturated
from services.domain.ids import WorkerId
from services.domain.worker import WorkerStatus
from services.runtime.tasks import Nursery
from services.wire.codec import WireError, decode_status, encode_status
from services.wire.subjects import Subjects, id_in

log = logging.getLogger(__name__)

STORE_REFUSED = 10077
"""JSStreamStoreFailedErr: a limit of the stream is reached."""

PURGED = {"KV-Operation": "PURGE", "Nats-TTL": str(MARKER_TTL_S)}
"""Headers of the marker that stands for a removed key for a while."""


def ttl_header(ttl_s: float) -> str:
    """Whole seconds, rounded up: the server's unit and its least value is 1."""
    return str(max(1, math.ceil(ttl_s)))


class _FeedSink:
    """Turns the bucket's changes into one watcher's."""

    def __init__(self, feed: FleetFeed, on_drop: Callable[[str], None]) -> None:
        self._feed = feed
        self._on_drop = on_drop
        self._ttl_s: dict[WorkerId, float] = {}
        self._missing: dict[WorkerId, asyncio.TimerHandle] = {}

    def put(self, subject: str, value: bytes, revision: int, headers: Mapping[str, str]) -> None:
        del revision
        try:
            status = decode_status(value)
            ttl_s = float(headers.get("Nats-TTL", "").removesuffix("s"))
        except (WireError, ValueError) as error:
            log.warning("unreadable status at %s: %s", subject, error)
            self._on_drop("fleet_unreadable")
            return
        self._found(status.worker_id)
        self._ttl_s[status.worker_id] = ttl_s
        self._feed.seen(status)

    def gone(self, subject: str) -> None:
        worker_id = WorkerId(id_in(subject))
        self._found(worker_id)
        self._ttl_s.pop(worker_id, None)
        self._feed.left(worker_id)

    def complete(self, present: Set[str]) -> None:
        here = {id_in(subject) for subject in present}
        loop = asyncio.get_running_loop()
        for worker_id in self._feed.known():
            if worker_id not in here and worker_id not in self._missing:
                self._missing[worker_id] = loop.call_later(
                    self._ttl_s.get(worker_id, 0.0), self._give_up, worker_id
                )

    def close(self) -> None:
        for timer in self._missing.values():
            timer.cancel()
        self._feed.close()

    def _found(self, worker_id: WorkerId) -> None:
        timer = self._missing.pop(worker_id, None)
        if timer is not None:
            timer.cancel()

    def _give_up(self, worker_id: WorkerId) -> None:
        del self._missing[worker_id]
        self._ttl_s.pop(worker_id, None)
        self._feed.left(worker_id)


class FleetRegistry:
    """The fleet bucket of one cluster."""

    def __init__(self, connection: Connection, nursery: Nursery, on_drop: Callable[[str], None]) -> None:
        self._connection = connection
        self._nursery = nursery
        self._on_drop = on_drop
        self._subjects = Subjects(connection.settings.namespace)
        self._sinks: list[_FeedSink] = []

    async def announce(self, status: WorkerStatus, ttl_s: float) -> None:
        """Publish or renew a status.

        Raises:
            BusUnavailable: not confirmed in time.
            Saturated: the fleet is as large as it may be.
        """
        subject, value = self._subjects.fleet(status.worker_id), encode_status(status)
        headers = {"Nats-TTL": ttl_header(ttl_s)}
        try:
            await ask(self._connection, lambda js: js.publish(subject, value, headers=headers))
        except nats.js.errors.APIError as error:
            if error.err_code == STORE_REFUSED:
                raise Saturated(
                    retry_after_s=self._connection.settings.limits.saturated_retry_s,
                    message=f"the fleet holds {self._connection.settings.limits.workers_max} workers",
                ) from error
            raise BusUnavailable(message=f"NATS refuses a status: {error}") from error

    async def withdraw(self, worker_id: WorkerId) -> None:
        """Remove a status.

        Raises:
            BusUnavailable: not confirmed in time.
        """
        subject = self._subjects.fleet(worker_id)
        try:
            await ask(self._connection, lambda js: js.publish(subject, b"", headers=dict(PURGED)))
        except nats.js.errors.APIError as error:
            raise BusUnavailable(message=f"NATS refuses a goodbye: {error}") from error

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[FleetChange]]:
        """Follow the fleet from its present state."""
        feed = FleetFeed()
        sink = _FeedSink(feed, self._on_drop)
        follower = Follower(
            self._connection,
            stream=self._subjects.fleet_stream,
            subjects=self._subjects.fleet_all,
            sink=sink,
        )
        self._sinks.append(sink)
        task = self._nursery.start(follower.run(), "watch-fleet")
        try:
            yield feed
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            sink.close()
            self._sinks.remove(sink)

    def close(self) -> None:
        """End all watches."""
        for sink in self._sinks:
            sink.close()
