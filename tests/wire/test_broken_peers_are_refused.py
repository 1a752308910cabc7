"""Nothing that a newer, older or broken peer sends raises anything but `WireError`, which names the field."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.ids import GatewayId, RequestId, TaskId
from services.domain.link import Cancel, Hello, StartDecode, TaskFailed
from services.domain.request import Sampling
from services.domain.stream import Delta, FinishReason, StepFrame
from services.wire import codec
from services.wire.generated.baton.internal.v1 import handoff_pb2, request_pb2, router_pb2, worker_pb2
from tests.wire import values
from tests.wire.samples import REQUEST, STATUS, TICKET


def decode_chunk(data: bytes) -> object:
    """Read a snapshot of one chunk."""

    async def one() -> AsyncIterator[bytes]:
        yield data

    return asyncio.run(codec.decode_snapshot(one(), blocks_max=100))


DECODERS: tuple[Callable[[bytes], object], ...] = (
    codec.decode_to_worker,
    codec.decode_to_gateway,
    codec.decode_status,
    codec.decode_role_order,
    codec.decode_request,
    codec.decode_entry,
    codec.decode_kv_batch,
    decode_chunk,
    lambda data: codec.error_from_proto(request_pb2.ServingError(code="kv_lost", attributes_json=repr(data))),
)


@pytest.mark.parametrize("decode", DECODERS)
@given(data=st.binary(max_size=64))
def test_any_bytes(decode: Callable[[bytes], object], data: bytes) -> None:
    """Noise is refused, or is a message by chance; nothing else happens."""
    with suppress(codec.WireError):
        decode(data)


@pytest.mark.parametrize("decode", DECODERS)
@given(data=st.data())
def test_damaged_messages(decode: Callable[[bytes], object], data: st.DataObject) -> None:
    """A valid message with bytes cut out or changed, or of another kind, is refused or understood."""
    whole = data.draw(
        st.one_of(
            values.TO_WORKER.map(codec.encode_to_worker),
            values.TO_GATEWAY.map(codec.encode_to_gateway),
            values.STATUSES.map(codec.encode_status),
            values.ROLE_ORDERS.map(codec.encode_role_order),
            values.REQUESTS.map(codec.encode_request),
            st.builds(codec.encode_entry, values.RECORDS, st.none() | values.CLAIMS, values.COUNTS),
            values.BATCHES.map(codec.encode_kv_batch),
        )
    )
    at = data.draw(st.integers(0, len(whole)))
    cut = data.draw(st.integers(0, 3))
    damaged = whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + cut :]
    with suppress(codec.WireError):
        decode(damaged)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(repr))
def test_any_attributes_of_an_error(text: str) -> None:
    """Attributes are typed: other JSON, or no JSON, is refused."""
    with pytest.raises(codec.WireError):
        codec.error_from_proto(request_pb2.ServingError(code="kv_lost", attributes_json=text))


def _status(**changes: object) -> bytes:
    message = worker_pb2.WorkerStatus.FromString(codec.encode_status(STATUS))
    for name, value in changes.items():
        if value is None:
            message.ClearField(name)  # type: ignore[arg-type]  # the name comes from the table below
        else:
            setattr(message, name, value)
    return message.SerializeToString()


def _ticket(**changes: object) -> bytes:
    message = codec.ticket_to_proto(TICKET)
    for name, value in changes.items():
        setattr(message, name, value)
    start = worker_pb2.StartDecode(request=codec.request_to_proto(REQUEST), ticket=message)
    return worker_pb2.ToWorker(start_decode=start).SerializeToString()


def _request(message: request_pb2.InferenceRequest) -> bytes:
    return worker_pb2.ToWorker(start_decode=worker_pb2.StartDecode(request=message)).SerializeToString()


def _delta(message: request_pb2.Delta) -> bytes:
    return worker_pb2.ToGateway(step_frame=worker_pb2.StepFrame(deltas=[message])).SerializeToString()


def _error(code: str, attributes: str) -> bytes:
    error = request_pb2.ServingError(code=code, attributes_json=attributes)
    return _delta(request_pb2.Delta(request_id="r", finish=request_pb2.FINISH_REASON_ERROR, error=error))


PROMPT = (1).to_bytes(4, "little")
SAMPLING = request_pb2.Sampling(max_tokens=1)
SCOPE = request_pb2.CacheScope(model="m")
BARE = request_pb2.InferenceRequest(request_id="r", scope=SCOPE, prompt_token_ids=PROMPT, sampling=SAMPLING)


def _without(name: str) -> bytes:
    message = request_pb2.InferenceRequest()
    message.CopyFrom(BARE)
    message.ClearField(name)  # type: ignore[arg-type]  # the name comes from the table below
    return _request(message)


@pytest.mark.parametrize(
    ("decode", "data", "field"),
    [
        (codec.decode_to_worker, b"\xff", "ToWorker"),
        (codec.decode_to_worker, b"", "ToWorker.message"),
        (codec.decode_to_worker, b"\x7a\x00", "ToWorker.message"),  # field 15, as a newer peer may have it
        (codec.decode_to_gateway, b"", "ToGateway.message"),
        (codec.decode_to_worker, worker_pb2.ToWorker(hello=worker_pb2.Hello()).SerializeToString(),
         "Hello.gateway_id"),
        (codec.decode_to_worker, _without("request_id"), "InferenceRequest.request_id"),
        (codec.decode_to_worker, _without("scope"), "InferenceRequest.scope"),
        (codec.decode_to_worker, _without("sampling"), "InferenceRequest.sampling"),
        (codec.decode_to_worker, _without("prompt_token_ids"), "InferenceRequest.prompt_token_ids"),
        (codec.decode_to_worker,
         _request(request_pb2.InferenceRequest(
             request_id="r", scope=SCOPE, sampling=SAMPLING, prompt_token_ids=b"12345")),
         "InferenceRequest.prompt_token_ids"),
        (codec.decode_to_worker, _ticket(block_size_tokens=0), "Ticket.block_size_tokens"),
        (codec.decode_to_worker, _ticket(lease_s=float("nan")), "Ticket.lease_s"),
        (codec.decode_to_gateway, _delta(request_pb2.Delta()), "Delta.request_id"),
        (codec.decode_to_gateway, _delta(request_pb2.Delta(request_id="r", finish=99)),  # type: ignore[arg-type]  # a newer peer's reason
         "Delta.finish"),
        (codec.decode_to_gateway,
         _delta(request_pb2.Delta(request_id="r", finish=request_pb2.FINISH_REASON_ERROR)), "Delta.error"),
        (codec.decode_to_gateway,
         _delta(request_pb2.Delta(request_id="r", logprobs=[request_pb2.TokenLogprob(top_token_ids=[1])])),
         "TokenLogprob.top_logprobs"),
        (codec.decode_to_gateway, _error("of_tomorrow", ""), "ServingError.code"),
        (codec.decode_to_gateway, _error("kv_lost", "{}"), "ServingError.attributes_json.worker_id"),
        (codec.decode_to_gateway, _error("kv_lost", "[" * 100_000), "ServingError.attributes_json"),
        (codec.decode_to_gateway, _error("kv_lost", '{"worker_id":"\\ud800"}'),
         "ServingError.attributes_json.worker_id"),
        (codec.decode_to_gateway, _error("saturated", '{"retry_after_s":NaN}'),
         "ServingError.attributes_json.retry_after_s"),
        (codec.decode_to_gateway, _error("saturated", '{"retry_after_s":true}'),
         "ServingError.attributes_json.retry_after_s"),
        (codec.decode_to_gateway, _error("saturated", '{"retry_after_s":1' + "0" * 400 + "}"),
         "ServingError.attributes_json.retry_after_s"),
        (codec.decode_status, _status(limits=None), "WorkerStatus.limits"),
        (codec.decode_status, _status(lifecycle=0), "WorkerStatus.lifecycle"),
        (codec.decode_role_order, worker_pb2.RoleOrder(worker_id="w", epoch="e").SerializeToString(),
         "RoleOrder.phases"),
        (codec.decode_role_order, worker_pb2.RoleOrder(
            worker_id="w", phases=[worker_pb2.PHASE_DECODE]).SerializeToString(), "RoleOrder.epoch"),
        (codec.decode_request, b"", "InferenceRequest.scope"),
        (codec.decode_entry, handoff_pb2.QueueEntry(record=handoff_pb2.TaskRecord(
            task_id="t", gateway_id="g", mark_depths_blocks=[1, 2], mark_hashes=[3])).SerializeToString(),
         "TaskRecord.mark_hashes"),
        (codec.decode_entry, b"", "QueueEntry.record"),
        (codec.decode_kv_batch, worker_pb2.KvEventBatch(
            worker_id="w", epoch="e", events=[worker_pb2.KvEvent()]).SerializeToString(), "KvEvent.event"),
        (decode_chunk, b"", "KvSnapshotChunk.worker_id"),
        (decode_chunk, worker_pb2.KvSnapshotChunk(
            worker_id="w", epoch="e", stored=[worker_pb2.BlocksStored(hashes=range(101))]
        ).SerializeToString(), "KvSnapshotChunk.stored"),
    ],
)  # fmt: skip
def test_the_field_at_fault_is_named(decode: Callable[[bytes], object], data: bytes, field: str) -> None:
    """Missing, unknown and malformed fields are each refused by name, for whoever reads the log."""
    with pytest.raises(codec.WireError) as caught:
        decode(data)
    assert caught.value.field == field
    assert field in str(caught.value)


def test_fields_of_a_newer_peer_are_ignored() -> None:
    """A rolling upgrade may add a field that this version does not read."""
    extra = b"\xba\x3e\x01x"  # field 999, two bytes announced as one: "x"
    assert codec.decode_status(codec.encode_status(STATUS) + extra) == STATUS


def test_router_answers_without_an_outcome_are_refused() -> None:
    """An empty answer is neither a placement nor a refusal."""
    with pytest.raises(codec.WireError):
        codec.place_response_from_proto(router_pb2.PlaceResponse())
    with pytest.raises(codec.WireError):
        codec.place_decode_response_from_proto(router_pb2.PlaceDecodeResponse())


def test_an_entry_with_a_nameless_claimant_is_refused() -> None:
    """A claim is held by somebody."""
    entry = handoff_pb2.QueueEntry(
        record=handoff_pb2.TaskRecord(task_id="t", gateway_id="g"), claim=handoff_pb2.Claim(attempt=1)
    )
    with pytest.raises(codec.WireError, match=r"Claim\.worker_id"):
        codec.decode_entry(entry.SerializeToString())


@pytest.mark.parametrize(
    "write",
    [
        lambda: codec.encode_to_worker(Hello(gateway_id=GatewayId("\ud800"))),  # half a character
        lambda: codec.encode_to_worker(Cancel(request_id=RequestId("\udfff"))),
        lambda: codec.encode_to_worker(
            StartDecode(request=REQUEST, ticket=None, emitted_token_ids=(-1,), deadline_s=None)
        ),
        lambda: codec.encode_to_gateway(StepFrame(step=-1, deltas=())),
        lambda: codec.encode_to_gateway(
            TaskFailed(
                task_id=TaskId("t"),
                request_id=REQUEST.request_id,
                final=Delta(request_id=REQUEST.request_id, finish=FinishReason.ERROR),
            )
        ),
        lambda: codec.encode_to_worker(
            StartDecode(
                request=replace(REQUEST, sampling=Sampling(max_tokens=2**40)),
                ticket=None,
                emitted_token_ids=(),
                deadline_s=None,
            )
        ),
        lambda: codec.encode_to_worker(
            StartDecode(
                request=replace(REQUEST, prompt_token_ids=(2**32,)),
                ticket=None,
                emitted_token_ids=(),
                deadline_s=None,
            )
        ),
    ],
)
def test_values_out_of_range_are_not_written(write: Callable[[], object]) -> None:
    """A number that its field cannot hold is refused where it is written, not truncated."""
    with pytest.raises(codec.WireError):
        write()
