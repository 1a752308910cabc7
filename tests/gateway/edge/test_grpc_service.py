"""The gRPC service, asked by a generated client over a real port."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # type: ignore[import-untyped]
    ProtoReflectionDescriptorDatabase,
)

from services.domain.errors import EngineFailed, Saturated
from services.gateway.edge.grpc_server import SERVICE
from services.gateway.rehearsal import Script
from services.wire.generated.baton.v1 import inference_pb2 as pb
from services.wire.generated.baton.v1 import inference_pb2_grpc
from tests.gateway.edge.conftest import Edge, StartEdge
from tests.gateway.edge.model_folder import CONTEXT_TOKENS, MODEL

Stub = inference_pb2_grpc.InferenceServiceStub
HOUR_S = 3600.0


@pytest.fixture
async def channel(edge: Edge) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the edge."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.grpc_port}") as opened:
        yield opened


def ask(text: str = "The hare", **sampling: object) -> pb.GenerateRequest:
    """Make a request."""
    options = pb.SamplingOptions(**sampling)  # type: ignore[arg-type]  # a test's own choice
    return pb.GenerateRequest(model=MODEL, text=text, sampling=options)


async def fails(
    call: "grpc.aio.UnaryUnaryCall[pb.GenerateRequest, pb.GenerateResponse]",
) -> tuple[grpc.StatusCode, str | None]:
    """Wait for an error; give back its status and Baton's code."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    trailing = dict(caught.value.trailing_metadata() or ())
    code = trailing.get("baton-error-code")
    return caught.value.code(), None if code is None else str(code)


async def test_generate_says_what_http_says(edge: Edge, channel: grpc.aio.Channel) -> None:
    """Text, token ids and chat give the answers of the HTTP API."""
    stub = Stub(channel)
    http = await edge.openai.completions.create(model=MODEL, prompt="The hare", max_tokens=20)
    answer = await stub.Generate(ask(max_tokens=20))
    assert answer.text == http.choices[0].text
    assert (answer.finish_reason, answer.model) == ("length", MODEL)
    assert answer.usage.completion_tokens == len(answer.token_ids) == 20
    assert answer.usage.cached_tokens == answer.usage.prompt_tokens - 1
    ids = edge.assets.tokenizer.encode("The hare").ids
    by_ids = await stub.Generate(pb.GenerateRequest(model=MODEL, token_ids=pb.TokenIds(ids=ids)))
    assert answer.text.startswith(by_ids.text)
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])
    by_chat = await stub.Generate(
        pb.GenerateRequest(model=MODEL, chat=chat, sampling=pb.SamplingOptions(max_tokens=4))
    )
    spoken = await edge.openai.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], max_tokens=4
    )
    assert by_chat.text == spoken.choices[0].message.content


async def test_a_stream_ends_with_finished(edge: Edge, channel: grpc.aio.Channel) -> None:
    """Pieces first, then exactly one `finished` with the usage; together they are the whole answer."""
    stub = Stub(channel)
    whole = await stub.Generate(ask(max_tokens=60, logprobs=2))
    parts = [part async for part in stub.GenerateStream(ask(max_tokens=60, logprobs=2))]
    assert [p.WhichOneof("event") for p in parts].count("finished") == 1
    assert parts[-1].finished.finish_reason == "length"
    assert parts[-1].finished.usage.completion_tokens == 60
    assert "".join(p.piece.text for p in parts) == whole.text
    assert [i for p in parts for i in p.piece.token_ids] == list(whole.token_ids)
    assert [t for p in parts for t in p.piece.logprobs] == list(whole.logprobs)
    assert all(len(t.top) == 2 for t in whole.logprobs)


async def test_a_stop_string_ends_the_answer(edge: Edge, channel: grpc.aio.Channel) -> None:
    """Neither text nor token ids hold a part of the stop string."""
    request = ask(max_tokens=300)
    request.stop.append("walked")
    answer = await Stub(channel).Generate(request)
    assert answer.finish_reason == "stop"
    assert "walk" not in answer.text[-6:]
    assert edge.assets.tokenizer.decode(list(answer.token_ids)) in answer.text


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (ask(temperature=3), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
        (ask("word " * 2000), grpc.StatusCode.INVALID_ARGUMENT, "context_length_exceeded"),
        (ask(""), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
        (ask(json_schema="[1"), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
        (pb.GenerateRequest(model=MODEL), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request"),
        (pb.GenerateRequest(model="nobody", text="x"), grpc.StatusCode.NOT_FOUND, "model_not_found"),
    ],
)
async def test_wrong_requests_have_a_status_and_a_code(
    edge: Edge, channel: grpc.aio.Channel, request_: pb.GenerateRequest, status: grpc.StatusCode, code: str
) -> None:
    """The one error table holds for gRPC, and the trailing metadata has the stable code."""
    assert await fails(Stub(channel).Generate(request_)) == (status, code)
    assert not edge.serving.recent()


async def test_a_failed_stream_ends_with_its_status(start_edge: StartEdge, script: Script) -> None:
    """A failure in the middle ends the stream with a status and never with `finished`."""
    failure = EngineFailed(message="died", worker_id="w")
    edge = await start_edge(dataclasses.replace(script, failure=failure, fail_after_tokens=5))
    parts: list[str | None] = []

    async def read(call: "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateStreamResponse]") -> None:
        parts.extend([part.WhichOneof("event") async for part in call])

    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.grpc_port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(Stub(channel).GenerateStream(ask(max_tokens=50)))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "finished" not in parts


async def test_saturation_says_when_to_come_back(start_edge: StartEdge, script: Script) -> None:
    """RESOURCE_EXHAUSTED carries a retry-after, as HTTP does."""
    failure = Saturated(message="full", retry_after_s=4.5)
    edge = await start_edge(dataclasses.replace(script, failure=failure))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.grpc_port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await Stub(channel).Generate(ask())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ("retry-after", "5") in list(caught.value.trailing_metadata() or ())


async def test_deadline_and_cancel_reach_the_request(start_edge: StartEdge, script: Script) -> None:
    """The client's deadline travels on, and a client that cancels frees what it asked for."""
    edge = await start_edge(dataclasses.replace(script, token_s=HOUR_S))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.grpc_port}") as channel:
        call = Stub(channel).GenerateStream(ask())
        assert await anext(aiter(call)) is not None
        call.cancel()
        late = await fails(Stub(channel).Generate(ask(), timeout=0.1))
        assert late[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(10):
            while edge.serving.active_count:
                await Stub(channel).ListModels(pb.ListModelsRequest())
    assert {r.finish for r in edge.serving.recent()} <= {"aborted", "error"}


async def test_models_health_and_reflection(channel: grpc.aio.Channel, edge: Edge) -> None:
    """A client finds the models, the health of the service, and the service itself without our protos."""
    models = await Stub(channel).ListModels(pb.ListModelsRequest())
    assert [(m.name, m.context_tokens_max) for m in models.models] == [(MODEL, CONTEXT_TOKENS)]
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert health.status == health_pb2.HealthCheckResponse.SERVING

    def reflect() -> list[str]:
        with grpc.insecure_channel(f"127.0.0.1:{edge.grpc_port}") as plain:
            database = ProtoReflectionDescriptorDatabase(plain)
            assert SERVICE in database.get_services()
            return [m.name for m in DescriptorPool(database).FindServiceByName(SERVICE).methods]

    assert await asyncio.to_thread(reflect) == ["Generate", "GenerateStream", "ListModels"]


async def test_a_request_id_comes_back(edge: Edge, channel: grpc.aio.Channel) -> None:
    """The id is the caller's own or a new one, told before the first token and in the answer."""
    call = Stub(channel).Generate(ask(), metadata=(("x-request-id", "mine"),))
    assert ("x-request-id", "mine") in list(await call.initial_metadata())
    assert (await call).request_id == "mine"
    assert edge.serving.recent()[0].request_id == "mine"
