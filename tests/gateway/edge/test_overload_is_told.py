"""What overload looks like to a client: a status, a code, and a time after which to try again."""

import dataclasses

import grpc
import pytest

from services.domain.errors import DeadlineExceeded, DeadlineUnmeetable
from services.domain.ids import RequestId
from services.gateway.edge.assets import ModelAssets
from services.gateway.edge.calls import Envelope
from services.gateway.edge.intake import Intake
from services.gateway.edge.openai_calls import CompletionBody
from services.gateway.edge.settings import EdgeSettings
from services.gateway.edge.tokenizing import Tokenizing
from services.gateway.port import ServedModel
from services.gateway.rehearsal import Rehearsal, Script
from services.wire.generated.baton.v1 import inference_pb2 as pb
from services.wire.generated.baton.v1 import inference_pb2_grpc
from tests.gateway.edge.conftest import StartEdge
from tests.gateway.edge.model_folder import CONTEXT_TOKENS, MODEL

PROMPT = {"model": MODEL, "prompt": "The hare"}


def unmeetable(retry_after_s: float | None) -> DeadlineUnmeetable:
    """An answer that would come too late."""
    return DeadlineUnmeetable(
        message="too late", predicted_s=9.0, deadline_s=5.0, retry_after_s=retry_after_s
    )


@pytest.mark.parametrize(("retry_after_s", "header"), [(4.2, "5"), (0.01, "1"), (None, None)])
async def test_an_unmeetable_deadline_names_the_time_to_try_again(
    start_edge: StartEdge, script: Script, retry_after_s: float | None, header: str | None
) -> None:
    """503 with `retry-after` in whole seconds; without it when only a longer deadline would help."""
    edge = await start_edge(dataclasses.replace(script, failure=unmeetable(retry_after_s)))
    answer = await edge.http.post("/v1/completions", json=PROMPT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "deadline_unmeetable")
    assert answer.headers.get("retry-after") == header


async def test_grpc_clients_learn_the_same(start_edge: StartEdge, script: Script) -> None:
    """DEADLINE_EXCEEDED, the code, and the time in both of its forms: for people and for retry policies."""
    edge = await start_edge(dataclasses.replace(script, failure=unmeetable(4.2)))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.grpc_port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await inference_pb2_grpc.InferenceServiceStub(channel).Generate(
                pb.GenerateRequest(model=MODEL, text="The hare")
            )
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    trailing = dict(list(caught.value.trailing_metadata() or ()))
    assert trailing["baton-error-code"] == "deadline_unmeetable"
    assert trailing["retry-after"] == "5"
    assert trailing["grpc-retry-pushback-ms"] == "5000"


class _Clock:
    now = 0.0

    def now_s(self) -> float:
        return self.now


async def test_a_deadline_counts_from_the_arrival_of_the_call(assets: ModelAssets, script: Script) -> None:
    """What reading and tokenizing took is off the deadline, and a call that used it up goes no further."""
    clock, settings = _Clock(), EdgeSettings()
    intake = Intake(
        settings=settings,
        serving=Rehearsal(model=ServedModel(name=MODEL, context_tokens_max=CONTEXT_TOKENS), script=script),
        assets={MODEL: assets},
        tokenizing=Tokenizing(settings),
        clock=clock,
    )
    envelope = Envelope(request_id=RequestId("r"), arrived_s=0.0, deadline_s=2.0)
    body = CompletionBody(model=MODEL, prompt="The hare")
    clock.now = 0.5
    call = await intake.completion(body, envelope)
    assert call.options.deadline_s == 1.5
    clock.now = 2.0
    with pytest.raises(DeadlineExceeded):
        await intake.completion(body, envelope)


@pytest.mark.parametrize("priority", [-2, 0, 7])
async def test_a_client_says_how_urgent_a_call_is(assets: ModelAssets, script: Script, priority: int) -> None:
    """`priority` of the body is the priority of every request that follows from it."""
    settings = EdgeSettings()
    intake = Intake(
        settings=settings,
        serving=Rehearsal(model=ServedModel(name=MODEL, context_tokens_max=CONTEXT_TOKENS), script=script),
        assets={MODEL: assets},
        tokenizing=Tokenizing(settings),
        clock=_Clock(),
    )
    call = await intake.completion(
        CompletionBody(model=MODEL, prompt="The hare", priority=priority, n=2),
        Envelope(request_id=RequestId("r"), arrived_s=0.0, deadline_s=None),
    )
    assert [request.priority for request in call.requests] == [priority, priority]
