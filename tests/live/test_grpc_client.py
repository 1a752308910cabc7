"""The public gRPC service of a real cluster, asked by its generated client."""

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # type: ignore[import-untyped]
    ProtoReflectionDescriptorDatabase,
)

from services.gateway.edge.grpc_server import SERVICE
from services.wire.generated.baton.v1 import inference_pb2 as pb
from services.wire.generated.baton.v1.inference_pb2_grpc import InferenceServiceStub
from tests.live.cluster import DEADLINE_S, RunningCluster
from tests.live.outputs import MODEL

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

PATHS = [pb.PREFILL_PATH_LOCAL, pb.PREFILL_PATH_REMOTE]


def question(path: pb.PrefillPath.ValueType, max_tokens: int) -> pb.GenerateRequest:
    """Ask greedily for so many tokens."""
    return pb.GenerateRequest(
        model=MODEL,
        chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="Who carries the baton?")]),
        sampling=pb.SamplingOptions(max_tokens=max_tokens, temperature=0, ignore_eos=True),
        prefill_path=path,
    )


@pytest.mark.parametrize("path", PATHS)
async def test_a_stream_says_the_same_as_one_answer(
    channel: grpc.aio.Channel, path: pb.PrefillPath.ValueType
) -> None:
    """Pieces put together are the answer: text, token ids, usage; a stream ends with `finished`, once."""
    stub = InferenceServiceStub(channel)
    whole = await stub.Generate(question(path, 25), timeout=DEADLINE_S)
    events = [event async for event in stub.GenerateStream(question(path, 25), timeout=DEADLINE_S)]
    pieces, last = [event.piece for event in events[:-1]], events[-1]
    assert last.WhichOneof("event") == "finished"
    assert all(event.WhichOneof("event") == "piece" for event in events[:-1])
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [i for piece in pieces for i in piece.token_ids] == list(whole.token_ids)
    assert last.finished.finish_reason == whole.finish_reason == "length"
    assert last.finished.usage.completion_tokens == whole.usage.completion_tokens == 25


async def test_leaving_a_stream_frees_everything(cluster: RunningCluster, channel: grpc.aio.Channel) -> None:
    """A call that is cancelled after its first piece leaves nothing running."""
    call = InferenceServiceStub(channel).GenerateStream(question(pb.PREFILL_PATH_REMOTE, 3000))
    await anext(aiter(call))
    request_id = str(dict(await call.initial_metadata())["x-request-id"])
    call.cancel()
    await cluster.becomes_idle()
    assert (await cluster.record(request_id)).finish == "aborted"


async def test_models_and_errors(channel: grpc.aio.Channel) -> None:
    """The served model is listed; an unknown one is NOT_FOUND with the code of the HTTP API."""
    stub = InferenceServiceStub(channel)
    models = (await stub.ListModels(pb.ListModelsRequest(), timeout=DEADLINE_S)).models
    assert [model.name for model in models] == [MODEL]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Generate(pb.GenerateRequest(model="nobody", text="x"), timeout=DEADLINE_S)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert dict(refused.value.trailing_metadata() or ())["baton-error-code"] == "model_not_found"


async def test_health_is_told(channel: grpc.aio.Channel) -> None:
    """The standard health service says that the inference service serves."""
    health = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=DEADLINE_S)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_describes_the_service(cluster: RunningCluster) -> None:
    """A client without our protos finds the service and its methods by reflection."""
    with grpc.insecure_channel(cluster.grpc_address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services()
        service = DescriptorPool(database).FindServiceByName(SERVICE)
    assert {method.name for method in service.methods} == {"Generate", "GenerateStream", "ListModels"}
