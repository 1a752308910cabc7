"""Views of the prefill queue, each fed by a watch of the records' bucket.

Comes in: the bucket's changes. Goes out: `LiveQueueView`s that are complete when entered.
Invariant: a record that cannot be read is skipped and counted, and never claimed.
Not here: writing (`services.bus.nats.prefill_queue`).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Set
from contextlib import asynccontextmanager

from services.bus.live_view import LiveQueueView
from services.bus.nats.connection import Connection
from services.bus.nats.follower import Follower
from services.bus.port import QueueView
from services.domain.errors import BusUnavailable
from services.domain.ids import TaskId
from services.domain.task import QueuedTask
from services.runtime.tasks import Nursery
from services.wire.codec import WireError, decode_entry
from services.wire.subjects import Subjects, id_in

log = logging.getLogger(__name__)


class _ViewSink:
    """Turns the bucket's changes into a view's."""

    def __init__(self, view: LiveQueueView, on_drop: Callable[[str], None]) -> None:
        self._view = view
        self._on_drop = on_drop

    def put(self, subject: str, value: bytes, revision: int, headers: Mapping[str, str]) -> None:
        del headers
        try:
            entry = decode_entry(value)
        except WireError as error:
            log.warning("unreadable task at %s: %s", subject, error)
            self._on_drop("queue_unreadable")
            return
        self._view.put(entry.record, claim=entry.claim, attempts=entry.attempts, revision=revision)

    def gone(self, subject: str) -> None:
        self._view.remove(TaskId(id_in(subject)))

    def complete(self, present: Set[str]) -> None:
        self._view.keep_only({TaskId(id_in(subject)) for subject in present})


class QueueViews:
    """Opens views of one cluster's queue."""

    def __init__(self, connection: Connection, nursery: Nursery, on_drop: Callable[[str], None]) -> None:
        self._connection = connection
        self._nursery = nursery
        self._on_drop = on_drop
        self._subjects = Subjects(connection.settings.namespace)
        self._views: list[LiveQueueView] = []

    def refresh(self, queued: QueuedTask) -> QueuedTask | None:
        """Look up what is known of a task now; None when a claim against its revision must fail."""
        if not self._views:
            return queued
        for view in self._views:
            newest = view.get(queued.record.task_id)
            if newest is not None and newest.revision == queued.revision:
                return newest
        return None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[QueueView]:
        """Open a view and wait until it is complete.

        Raises:
            BusUnavailable: the server did not answer in time.
        """
        self._connection.check()
        view = LiveQueueView(self._connection.settings.limits)
        follower = Follower(
            self._connection,
            stream=self._subjects.records_stream,
            subjects=self._subjects.records_all,
            sink=_ViewSink(view, self._on_drop),
        )
        task = self._nursery.start(follower.run(), "queue-view")
        try:
            try:
                async with asyncio.timeout(self._connection.settings.request_timeout_s):
                    await follower.completed.wait()
            except TimeoutError:
                raise BusUnavailable(message="the queue could not be read in time") from None
            self._views.append(view)
            yield view
        finally:
            if view in self._views:
                self._views.remove(view)
            view.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
