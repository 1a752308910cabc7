"""Whatever one version writes, it reads back equal."""

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.domain.blocks import BlockHash, BlocksStored, KvEventBatch, KvSnapshot
from services.domain.errors import ServingError
from services.domain.ids import EngineEpoch, WorkerId
from services.domain.link import ToGateway, ToWorker
from services.domain.placement import DecodePlacement, DecodeQuery, Placement, PlacementQuery
from services.domain.request import InferenceRequest
from services.domain.task import Claim, TaskRecord
from services.domain.worker import RoleOrder, WorkerStatus
from services.wire import codec
from tests.wire import values

Edge = tuple[int, int]

CHUNK_BYTES_MAX = 200_000


async def _stream(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def _read(chunks: Iterable[bytes], blocks_max: int = 10**9) -> KvSnapshot:
    return asyncio.run(codec.decode_snapshot(_stream(chunks), blocks_max=blocks_max))


def _edges(stored: Iterable[BlocksStored]) -> list[Edge]:
    """Every block with the one before it, in order: what a prefix index makes of a snapshot."""
    return [e for run in stored for e in zip((run.parent, *run.hashes), run.hashes, strict=False)]


@given(values.TO_WORKER)
def test_messages_to_a_worker(message: ToWorker) -> None:
    """Every member of the union, with every optional part present and absent."""
    assert codec.decode_to_worker(codec.encode_to_worker(message)) == message


@given(values.TO_GATEWAY)
def test_messages_to_a_gateway(message: ToGateway) -> None:
    """Every member of the union, with every optional part present and absent."""
    assert codec.decode_to_gateway(codec.encode_to_gateway(message)) == message


@given(values.ERRORS)
def test_errors(error: ServingError) -> None:
    """Every leaf of the tree keeps its type and its attributes."""
    read = codec.error_from_proto(codec.error_to_proto(error))
    assert read == error
    assert type(read) is type(error)


def test_an_error_that_is_no_leaf_crosses_as_a_leaf() -> None:
    """A reader knows leaves only: the codec's own error arrives as the fault that it is."""
    error = codec.WireError(field="Hello.gateway_id", message="Hello.gateway_id is missing")
    read = codec.error_from_proto(codec.error_to_proto(error))
    assert (read.code, read.message) == ("internal", error.message)


@given(values.STATUSES)
def test_worker_statuses(status: WorkerStatus) -> None:
    """A status says the same on every machine."""
    assert codec.decode_status(codec.encode_status(status)) == status


@given(values.ROLE_ORDERS)
def test_orders_to_workers(order: RoleOrder) -> None:
    """Whom, which life and which phases."""
    assert codec.decode_role_order(codec.encode_role_order(order)) == order


@given(values.BATCHES)
def test_kv_event_batches(batch: KvEventBatch) -> None:
    """Events keep kind, order and hashes."""
    assert codec.decode_kv_batch(codec.encode_kv_batch(batch)) == batch


@given(values.REQUESTS)
def test_requests(request: InferenceRequest) -> None:
    """The body that only the claimant reads."""
    assert codec.decode_request(codec.encode_request(request)) == request


@given(values.RECORDS, st.none() | values.CLAIMS, values.COUNTS)
def test_queue_entries(record: TaskRecord, claim: Claim | None, attempts: int) -> None:
    """The small record that everybody looks at, claimed or not."""
    assert codec.decode_entry(codec.encode_entry(record, claim, attempts)) == (record, claim, attempts)


@given(values.SNAPSHOTS)
def test_small_snapshots(snapshot: KvSnapshot) -> None:
    """A snapshot whose runs fit a chunk comes back as it was, the empty one too."""
    assert _read(codec.encode_snapshot(snapshot)) == snapshot


@settings(max_examples=20)
@given(st.lists(st.integers(0, 3 * codec.CHUNK_HASHES_MAX), max_size=4))
def test_large_snapshots_are_cut_without_losing_a_link(run_lengths: list[int]) -> None:
    """Chunks stay below their bound, and every block keeps its place behind its parent."""
    stored = tuple(
        BlocksStored(parent=BlockHash(n), hashes=tuple(BlockHash(i * 7 + n) for i in range(length)))
        for n, length in enumerate(run_lengths)
    )
    snapshot = KvSnapshot(worker_id=WorkerId("w"), epoch=EngineEpoch("e"), sequence=7, stored=stored)
    chunks = list(codec.encode_snapshot(snapshot))
    read = _read(chunks)
    assert (read.worker_id, read.epoch, read.sequence) == ("w", "e", 7)
    assert _edges(read.stored) == _edges(stored)
    assert max(map(len, chunks)) <= CHUNK_BYTES_MAX


@pytest.mark.parametrize("length", [0, 1, 2])
def test_many_short_runs_fill_chunks_within_the_bound(length: int) -> None:
    """A run costs more than its hashes: short ones are counted with what stands around them."""
    hashes = tuple(map(BlockHash, range(length)))
    stored = tuple(
        BlocksStored(parent=BlockHash(2**64 - 1), hashes=hashes) for _ in range(codec.CHUNK_HASHES_MAX * 2)
    )
    snapshot = KvSnapshot(worker_id=WorkerId("w"), epoch=EngineEpoch("e"), sequence=1, stored=stored)
    chunks = list(codec.encode_snapshot(snapshot))
    assert _read(chunks) == snapshot
    assert max(map(len, chunks)) <= CHUNK_BYTES_MAX


@given(values.PLACEMENT_QUERIES)
def test_placement_queries(query: PlacementQuery) -> None:
    """A router on its own is asked the same question."""
    assert codec.placement_query_from_proto(codec.placement_query_to_proto(query)) == query


@given(values.DECODE_QUERIES)
def test_decode_queries(query: DecodeQuery) -> None:
    """A router on its own is asked the same question."""
    assert codec.decode_query_from_proto(codec.decode_query_to_proto(query)) == query


@given(values.PLACEMENTS | values.ERRORS)
def test_placements(outcome: Placement | ServingError) -> None:
    """A decision keeps every candidate; a refusal keeps its leaf."""
    assert codec.place_response_from_proto(codec.place_response_to_proto(outcome)) == outcome


@given(values.DECODE_PLACEMENTS | values.ERRORS)
def test_decode_placements(outcome: DecodePlacement | ServingError) -> None:
    """A decision keeps every candidate; a refusal keeps its leaf."""
    assert codec.place_decode_response_from_proto(codec.place_decode_response_to_proto(outcome)) == outcome
