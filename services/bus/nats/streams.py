"""What the server keeps for one cluster, and how it comes to exist.

Comes in: settings. Goes out: three streams on the server. Invariant: every stream is bounded in count,
bytes and age; a removed or expired key leaves a marker for `MARKER_TTL_S`, so that who watches learns of
it; bodies have no markers, so that their count is the queue's exact bound.
Not here: reading and writing them.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import nats.js.errors
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig, StreamInfo

from services.bus.nats.connection import Connection
from services.bus.settings import BusSettings
from services.domain.errors import BusUnavailable, ConfigurationInvalid
from services.wire.subjects import Subjects

T = TypeVar("T")

MARKER_TTL_S = 10
"""How long a removal can be learnt from the stream: above any pause of a live watch; one that was away
longer reads the whole state anew."""

MARKERS_MAX = 100_000
"""Most markers beside the live records: 10,000 finished tasks per second."""

_RECORD_BYTES_MAX = 4096
_STATUS_BYTES_MAX = 16 * 1024

_IN_USE = 10058
"""JSStreamNameExistErr: the stream exists with another configuration."""

_NO_STREAM = 10059
_STORAGE_SHORT = (10023, 10047)
"""JSInsufficientResourcesErr, JSStorageResourcesExceededErr."""

_NOT_YET = (10005, 10008, 10009)
"""JSClusterNoPeersErr, JSClusterNotAvailErr, JSClusterNotLeaderErr: the cluster is still starting."""


def configurations(settings: BusSettings) -> tuple[StreamConfig, ...]:
    """The streams of one cluster."""
    subjects, limits = Subjects(settings.namespace), settings.limits
    queue_storage = StorageType.MEMORY if settings.queue_in_memory else StorageType.FILE
    fleet = StreamConfig(
        name=subjects.fleet_stream,
        description="Baton: one status per worker",
        subjects=[subjects.fleet_all],
        storage=StorageType.MEMORY,
        max_msgs=limits.workers_max,
        max_bytes=limits.workers_max * _STATUS_BYTES_MAX,
        subject_delete_marker_ttl=MARKER_TTL_S,
    )
    records = StreamConfig(
        name=subjects.records_stream,
        description="Baton: records and claims of the prefill queue",
        subjects=[subjects.records_all],
        storage=queue_storage,
        max_msgs=limits.queue_tasks_max + MARKERS_MAX,
        max_bytes=(limits.queue_tasks_max + MARKERS_MAX) * _RECORD_BYTES_MAX,
        subject_delete_marker_ttl=MARKER_TTL_S,
    )
    bodies = StreamConfig(
        name=subjects.bodies_stream,
        description="Baton: requests of the prefill queue",
        subjects=[subjects.bodies_all],
        storage=queue_storage,
        max_msgs=limits.queue_tasks_max,
        max_bytes=limits.queue_bytes_max,
    )
    common = {
        "max_msgs_per_subject": 1,
        "discard": DiscardPolicy.NEW,
        "allow_msg_ttl": True,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "num_replicas": settings.replicas,
    }
    return tuple(stream.evolve(**common) for stream in (fleet, records, bodies))


async def ensure(connection: Connection) -> None:
    """Create what is missing, and bring what exists to our settings.

    Raises:
        BusUnavailable: the server does not answer, has no JetStream, or waits for others of its cluster.
        ConfigurationInvalid: the server refuses a stream.
    """
    for config in configurations(connection.settings):
        try:
            try:
                await connection.ask(partial(_create, config))
            except nats.js.errors.APIError as error:
                if error.err_code != _IN_USE:
                    raise
                await connection.ask(partial(_update, config))
        except nats.js.errors.APIError as error:
            if error.err_code in _NOT_YET:
                raise BusUnavailable(message=f"NATS cannot hold streams yet: {error.description}") from error
            short = error.err_code in _STORAGE_SHORT
            raise ConfigurationInvalid(
                key="bus.limits.queue_bytes_max" if short else "bus",
                message=f"NATS refuses the stream {config.name}: {error.description}",
            ) from error


async def _create(config: StreamConfig, jetstream: JetStreamContext) -> StreamInfo:
    return await jetstream.add_stream(config)


async def _update(config: StreamConfig, jetstream: JetStreamContext) -> StreamInfo:
    return await jetstream.update_stream(config)


async def ask(connection: Connection, request: Callable[[JetStreamContext], Awaitable[T]]) -> T:
    """Ask; when the server lost its streams, create them and ask once more.

    Raises:
        BusUnavailable: no answer in time.
        nats.js.errors.APIError: the server refused.
    """
    try:
        return await connection.ask(request)
    except nats.js.errors.APIError as error:
        if error.err_code != _NO_STREAM:
            raise
    except BusUnavailable as error:
        if not isinstance(error.__cause__, nats.js.errors.NoStreamResponseError):
            raise
    await ensure(connection)
    return await connection.ask(request)
