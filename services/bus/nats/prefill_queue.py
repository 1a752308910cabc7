"""The prefill queue on JetStream: claims are compare-and-set writes on a task's small record.

Comes in: tasks of gateways; claims, renewals and ends of workers. Goes out: the same effects on two
streams. Invariant: a record stands for its body: the record is removed first, and a claimant that finds
no body removes the record; every write carries the time that is left, so that the server forgets what
nobody ends. Why not a work queue: `docs/decisions/0002-prefill-queue-claims.md`.
Not here: reading (`services.bus.nats.queue_view`), the order of claims (`services.prefill`).
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import nats.errors
import nats.js.errors
from nats.js.api import PubAck

from services.bus.mirror import age
from services.bus.nats.connection import Connection
from services.bus.nats.queue_view import QueueViews
from services.bus.nats.registry import PURGED, STORE_REFUSED, ttl_header
from services.bus.nats.streams import ask
from services.bus.port import QueueView
from services.domain.errors import BodyTooLarge, BusUnavailable, DeadlineExceeded, Saturated
from services.domain.ids import TaskId, WorkerId
from services.domain.request import InferenceRequest
from services.domain.task import Claim, ClaimedTask, PrefillTask, QueuedTask, TaskRecord
from services.wire.codec import decode_request, encode_entry, encode_request
from services.wire.subjects import Subjects

log = logging.getLogger(__name__)

EXPECTED_REVISION = "Nats-Expected-Last-Subject-Sequence"

FETCH_AHEAD_TOKENS_MAX = 16_384
"""Longest prompt whose body is fetched while its claim is still undecided: 64 KiB at most are then
fetched in vain by a claimant that loses, for half a round trip less by the one that wins."""

_WRONG_REVISION = (10071, 10164)
"""JSStreamWrongLastSequenceErrF and its constant form."""

_HEADER_BYTES = 1024
_CANCEL_TRIES = 8
_BODY_WAITS_S = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)
"""Body and record are written at once to two streams: the record may be seen this much earlier."""
_BODY_LATE_S = 1.0
"""A record seen for so long has its body or never gets one: a server that was killed may bring back records
of tasks that were done, by the hundred."""


class JetStreamQueue:
    """The prefill queue of one cluster, as one process writes it."""

    def __init__(self, connection: Connection, views: QueueViews, on_drop: Callable[[str], None]) -> None:
        self._connection = connection
        self._limits = connection.settings.limits
        self._views = views
        self._on_drop = on_drop
        self._subjects = Subjects(connection.settings.namespace)
        self._full = False
        self._first_seen_s: OrderedDict[TaskId, float] = OrderedDict()

    async def enqueue(self, task: PrefillTask) -> None:
        """Put a task in the queue; errors as the port says."""
        body = encode_request(task.request)
        limit_bytes = min(self._limits.body_bytes_max, self._connection.message_bytes_max - _HEADER_BYTES)
        self._connection.check()
        if len(body) > limit_bytes:
            raise BodyTooLarge(
                limit_bytes=limit_bytes,
                message=f"the task takes {len(body)} bytes on the queue, which takes {limit_bytes}",
            )
        life_s = self._life_s(task.record, 0.0)
        if life_s <= 0:
            raise DeadlineExceeded(deadline_s=life_s, message="the deadline passed before the queue")
        # The two writes need not wait for each other, unless the body is likely to be refused.
        put_body = self._put_body(task.record.task_id, body, life_s)
        if self._full:
            await put_body
            await self._put_record(task.record, life_s)
        else:
            await self._put_both(task.record, put_body, life_s)
        self._full = False

    def view(self) -> AbstractAsyncContextManager[QueueView]:
        """Open a mirror; it is complete when entered."""
        return self._views.open()

    async def claim(self, queued: QueuedTask, worker_id: WorkerId) -> ClaimedTask | None:
        """Take a task by compare-and-set on its revision; None when someone else was first."""
        newest = self._views.refresh(queued)
        if newest is None:
            self._connection.check()
            return None
        queued = newest
        task_id, attempt = queued.record.task_id, queued.attempts + 1
        claim = Claim(worker_id=worker_id, attempt=attempt)
        write = self._write(queued.record, queued.waited_s, claim, attempt, queued.revision)
        if queued.record.prompt_tokens <= FETCH_AHEAD_TOKENS_MAX:
            fetching = asyncio.ensure_future(self._fetch(queued))
            try:
                revision = await write
                body = await fetching if revision is not None else None
            finally:
                fetching.cancel()
                await asyncio.gather(fetching, return_exceptions=True)
        else:
            revision = await write
            body = await self._fetch(queued) if revision is not None else None
        if revision is None:
            return None
        if body is None:
            log.warning("task %s has no body: removed", task_id)
            await self._remove(task_id, revision)
            return None
        self._remember(task_id, queued.waited_s)
        return ClaimedTask(
            task=PrefillTask(record=queued.record, request=body),
            claim=claim,
            revision=revision,
            waited_s=queued.waited_s,
        )

    async def renew(self, claimed: ClaimedTask) -> ClaimedTask | None:
        """Prolong a claim; None when it was lost."""
        record = claimed.task.record
        first_seen_s = self._first_seen_s.get(record.task_id)
        now_s = asyncio.get_running_loop().time()
        elapsed_s = claimed.waited_s if first_seen_s is None else now_s - first_seen_s
        revision = await self._write(
            record, elapsed_s, claimed.claim, claimed.claim.attempt, claimed.revision
        )
        if revision is None:
            self._first_seen_s.pop(record.task_id, None)
            return None
        return replace(claimed, revision=revision)

    async def complete(self, claimed: ClaimedTask) -> bool:
        """Remove a task because its handoff is done; False when the claim was lost before."""
        removed = await self._remove(claimed.task.record.task_id, claimed.revision)
        self._first_seen_s.pop(claimed.task.record.task_id, None)
        return removed

    async def cancel(self, task_id: TaskId) -> bool:
        """Remove a task in whatever state; False when it is not in the queue."""
        for _ in range(_CANCEL_TRIES):
            revision = await self._find(task_id)
            if revision is None:
                return False
            if await self._remove(task_id, revision):
                return True
        raise BusUnavailable(message=f"task {task_id} changed {_CANCEL_TRIES} times while it was cancelled")

    async def waiting_count(self) -> int:
        """Tasks in the queue, claimed or not."""
        name = self._subjects.bodies_stream
        try:
            info = await ask(self._connection, lambda js: js.stream_info(name))
        except nats.js.errors.APIError as error:
            raise BusUnavailable(message=f"NATS cannot count the queue: {error}") from error
        return info.state.messages

    async def _put_both(
        self, record: TaskRecord, put_body: Coroutine[None, None, int], life_s: float
    ) -> None:
        body, entry = await asyncio.gather(put_body, self._put_record(record, life_s), return_exceptions=True)
        if isinstance(body, BaseException):
            if isinstance(entry, int):
                await self._undo(record.task_id, entry)
            raise body
        if isinstance(entry, BaseException):
            await self._drop_body(record.task_id)
            raise entry

    async def _undo(self, task_id: TaskId, revision: int) -> None:
        """Take back a record whose body was refused; a claimant that was quicker does it itself."""
        try:
            await self._remove(task_id, revision)
        except BusUnavailable as error:
            log.debug("record of %s left to its claimant: %s", task_id, error)

    async def _put_body(self, task_id: TaskId, body: bytes, life_s: float) -> int:
        return await self._store(self._subjects.body(task_id), body, {"Nats-TTL": ttl_header(life_s)})

    async def _put_record(self, record: TaskRecord, life_s: float) -> int:
        entry = encode_entry(record, None, 0)
        return await self._store(
            self._subjects.record(record.task_id), entry, {"Nats-TTL": ttl_header(life_s)}
        )

    async def _store(self, subject: str, value: bytes, headers: dict[str, str]) -> int:
        try:
            ack: PubAck = await ask(self._connection, lambda js: js.publish(subject, value, headers=headers))
        except nats.js.errors.APIError as error:
            if error.err_code == STORE_REFUSED:
                self._full = True
                raise Saturated(
                    retry_after_s=self._limits.saturated_retry_s,
                    message=f"the prefill queue is full: {error.description}",
                ) from error
            raise BusUnavailable(message=f"NATS refuses a task: {error}") from error
        return ack.seq

    def _life_s(self, record: TaskRecord, elapsed_s: float) -> float:
        life_s = self._limits.task_age_max_s
        if record.deadline_s is not None:
            life_s = min(life_s, record.deadline_s)
        return life_s - elapsed_s

    async def _write(
        self, record: TaskRecord, elapsed_s: float, claim: Claim | None, attempts: int, revision: int
    ) -> int | None:
        """Write an entry if its revision is still the known one; None when not or when its time is over."""
        life_s = self._life_s(record, elapsed_s)
        self._connection.check()
        if life_s <= 0:
            return None
        entry = encode_entry(age(record, elapsed_s), claim, attempts)
        headers = {"Nats-TTL": ttl_header(life_s), EXPECTED_REVISION: str(revision)}
        return await self._compare_and_set(record.task_id, entry, headers)

    async def _compare_and_set(self, task_id: TaskId, value: bytes, headers: dict[str, str]) -> int | None:
        subject = self._subjects.record(task_id)
        try:
            ack: PubAck = await ask(self._connection, lambda js: js.publish(subject, value, headers=headers))
        except nats.js.errors.APIError as error:
            if error.err_code in _WRONG_REVISION:
                return None
            raise BusUnavailable(message=f"NATS refuses to change a task: {error}") from error
        return ack.seq

    async def _remove(self, task_id: TaskId, revision: int) -> bool:
        """Remove record, then body, if the revision is still the known one."""
        headers = {**PURGED, EXPECTED_REVISION: str(revision)}
        if await self._compare_and_set(task_id, b"", headers) is None:
            return False
        await self._drop_body(task_id)
        return True

    async def _drop_body(self, task_id: TaskId) -> None:
        stream, subject = self._subjects.bodies_stream, self._subjects.body(task_id)
        try:
            await ask(self._connection, lambda js: js.purge_stream(stream, subject=subject))
        except (BusUnavailable, nats.js.errors.APIError) as error:
            log.debug("body of %s left to expire: %s", task_id, error)
            self._on_drop("queue_body")

    async def _fetch(self, queued: QueuedTask) -> InferenceRequest | None:
        """Read a task's body; None when there is none."""
        task_id = queued.record.task_id
        waits_s = _BODY_WAITS_S if queued.waited_s < _BODY_LATE_S else ()
        stream, subject = self._subjects.bodies_stream, self._subjects.body(task_id)
        for wait_s in (*waits_s, 0.0):
            try:
                found = await self._connection.ask(lambda js: js.get_last_msg(stream, subject, direct=True))
            except nats.js.errors.NotFoundError:
                await asyncio.sleep(wait_s)
            except nats.js.errors.APIError as error:
                raise BusUnavailable(message=f"NATS cannot read a body: {error}") from error
            else:
                return decode_request(found.data or b"")
        return None

    async def _find(self, task_id: TaskId) -> int | None:
        """The newest revision of a task's record; asks the stream's leader, as it must not be stale."""
        stream, subject = self._subjects.records_stream, self._subjects.record(task_id)
        try:
            found = await ask(self._connection, lambda js: js.get_last_msg(stream, subject))
        except nats.js.errors.NotFoundError:
            return None
        except nats.js.errors.APIError as error:
            raise BusUnavailable(message=f"NATS cannot read a record: {error}") from error
        headers = found.headers or {}
        if "KV-Operation" in headers or "Nats-Marker-Reason" in headers:
            return None
        return found.seq

    def _remember(self, task_id: TaskId, waited_s: float) -> None:
        self._first_seen_s[task_id] = asyncio.get_running_loop().time() - waited_s
        while len(self._first_seen_s) > self._limits.queue_tasks_max:
            self._first_seen_s.popitem(last=False)
