"""How calls end: done, failed, late, refused, or left by the client."""

import asyncio
import dataclasses
import json
from collections.abc import Callable

import openai
import pytest

from services.domain.errors import EngineFailed, NotReady, RateLimited, ServingError
from services.gateway.rehearsal import Script
from tests.gateway.edge.conftest import Edge, StartEdge, new_client
from tests.gateway.edge.model_folder import MODEL

PROMPT = {"model": MODEL, "prompt": "hi", "max_tokens": 30}
HOUR_S = 3600.0


async def until(edge: Edge, holds: Callable[[], bool]) -> None:
    """Let the edge work until something holds."""
    async with asyncio.timeout(10):
        while not holds():
            await edge.http.get("/health/live")


async def events(edge: Edge, body: dict[str, object]) -> list[str]:
    """Read all events of a stream."""
    answer = await edge.http.post("/v1/completions", json=body | {"stream": True})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    lines = answer.text.split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


@pytest.mark.parametrize("n", [1, 3])
async def test_a_good_stream_ends_with_done(edge: Edge, n: int) -> None:
    """One finish per choice, then [DONE], and nothing behind it."""
    *chunks, last = await events(edge, PROMPT | {"n": n})
    reasons = [json.loads(c)["choices"][0]["finish_reason"] for c in chunks]
    assert last == "[DONE]"
    assert reasons.count("length") == n
    assert reasons[-1] == "length"


@pytest.mark.parametrize("n", [1, 3])
async def test_a_failed_stream_ends_with_its_error(start_edge: StartEdge, script: Script, n: int) -> None:
    """A failure in the middle is one error event and no [DONE]; all choices end with it."""
    failure = EngineFailed(message="the engine died", worker_id="w")
    edge = await start_edge(dataclasses.replace(script, failure=failure, fail_after_tokens=5))
    *chunks, last = await events(edge, PROMPT | {"n": n})
    assert all("choices" in json.loads(c) for c in chunks)
    assert json.loads(last)["error"]["code"] == "engine_failed"
    assert edge.serving.active_count == 0
    with pytest.raises(openai.APIError, match="the engine died"):
        async for _ in await edge.openai.completions.create(model=MODEL, prompt="x", stream=True):
            pass


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (EngineFailed(message="died", worker_id="w"), 503),
        (NotReady(message="no worker", retry_after_s=3.2), 503),
        (RateLimited(message="slowly", retry_after_s=7), 429),
    ],
)
async def test_a_failure_before_the_first_token_has_a_status(
    start_edge: StartEdge, script: Script, failure: ServingError, status: int, stream: bool
) -> None:
    """Streamed or not, an early failure is an ordinary HTTP error with `Retry-After` if it promises one."""
    edge = await start_edge(dataclasses.replace(script, failure=failure))
    answer = await edge.http.post("/v1/completions", json=PROMPT | {"stream": stream})
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == failure.code
    expected = {"not_ready": "4", "rate_limited": "7"}.get(failure.code)
    assert answer.headers.get("retry-after") == expected


async def test_a_deadline_ends_a_call(start_edge: StartEdge, script: Script) -> None:
    """`x-request-timeout-s` reaches whoever serves: 504 before the first token, an error event after it."""
    late = {"x-request-timeout-s": "0.05"}
    edge = await start_edge(dataclasses.replace(script, first_token_s=HOUR_S))
    answer = await edge.http.post("/v1/completions", json=PROMPT, headers=late)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    edge.serving.script = dataclasses.replace(script, token_s=HOUR_S)
    answer = await edge.http.post("/v1/completions", json=PROMPT | {"stream": True}, headers=late)
    assert answer.status_code == 200
    assert "deadline_exceeded" in answer.text
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 4])
async def test_leaving_before_the_first_token_cancels(
    start_edge: StartEdge, script: Script, stream: bool, n: int
) -> None:
    """A client that gives up while it waits cancels all its requests, streamed or not."""
    edge = await start_edge(dataclasses.replace(script, first_token_s=HOUR_S))
    async with new_client(edge.url) as impatient:
        call = asyncio.ensure_future(
            impatient.post("/v1/completions", json=PROMPT | {"stream": stream, "n": n})
        )
        await until(edge, lambda: edge.serving.active_count == n)
        call.cancel()
    gone = {"api": "completions", "outcome": "client_gone"}
    await until(edge, lambda: edge.count("baton_requests_total", **gone) == 1)
    assert (edge.serving.active_count, edge.serving.cancelled_count) == (0, n)


async def test_leaving_in_the_middle_of_a_whole_answer_cancels(start_edge: StartEdge, script: Script) -> None:
    """A call without stream that is left while tokens come is cancelled too."""
    edge = await start_edge(dataclasses.replace(script, token_s=HOUR_S))
    async with new_client(edge.url) as impatient:
        call = asyncio.ensure_future(impatient.post("/v1/completions", json=PROMPT))
        await until(
            edge, lambda: any(r.output_tokens for r in edge.serving.recent()) or edge.serving.active_count > 0
        )
        call.cancel()
    await until(edge, lambda: edge.serving.active_count == 0)
    assert edge.serving.cancelled_count == 1


async def test_admission_is_bounded(start_edge: StartEdge, script: Script) -> None:
    """Sequences in flight are bounded, choices count; more is 429 with a Retry-After, then served again."""
    edge = await start_edge(
        dataclasses.replace(script, first_token_s=HOUR_S), requests_active_max=4, choices_max=4
    )
    async with new_client(edge.url) as patient:
        call = asyncio.ensure_future(patient.post("/v1/completions", json=PROMPT | {"n": 3}))
        await until(edge, lambda: edge.serving.active_count == 3)
        edge.serving.script = script
        refused = await edge.http.post("/v1/completions", json=PROMPT | {"n": 2})
        served = await edge.http.post("/v1/completions", json=PROMPT)
        call.cancel()
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "saturated")
    assert int(refused.headers["retry-after"]) >= 1
    assert served.status_code == 200
    await until(edge, lambda: edge.serving.active_count == 0)
    assert (await edge.http.post("/v1/completions", json=PROMPT | {"n": 4})).status_code == 200


async def test_a_request_id_names_one_request(start_edge: StartEdge, script: Script) -> None:
    """The caller's id comes back, names the record and the choices, and is refused while in use."""
    edge = await start_edge(script)
    mine = {"x-request-id": "order-66"}
    answer = await edge.http.post("/v1/completions", json=PROMPT | {"n": 2}, headers=mine)
    assert answer.headers["x-request-id"] == "order-66"
    assert answer.json()["id"] == "cmpl-order-66"
    assert {r.request_id for r in edge.serving.recent()} == {"order-66-0", "order-66-1"}
    edge.serving.script = dataclasses.replace(script, first_token_s=HOUR_S)
    async with new_client(edge.url) as patient:
        call = asyncio.ensure_future(patient.post("/v1/completions", json=PROMPT, headers=mine))
        await until(edge, lambda: edge.serving.active_count == 1)
        again = await edge.http.post("/v1/completions", json=PROMPT, headers=mine)
        call.cancel()
    assert (again.status_code, again.json()["error"]["param"]) == (400, "x-request-id")


async def test_an_answer_has_a_request_id_even_when_refused(edge: Edge) -> None:
    """An id is made when none is given, and told whatever comes of the call."""
    good = await edge.http.post("/v1/completions", json=PROMPT)
    bad = await edge.http.post("/v1/completions", json={})
    assert good.headers["x-request-id"] != bad.headers["x-request-id"]
    assert edge.serving.recent()[0].request_id == good.headers["x-request-id"]
