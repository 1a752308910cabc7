"""The API's description: complete, true to what is sent, and a source of bad input that breaks nothing."""

import asyncio
import json
from collections import Counter
from typing import Any, TypeVar

import httpx
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import checks

from services.gateway.edge.error_table import TABLE, ErrorBody
from services.gateway.edge.openai_replies import ChatChunk, ChatCompletion, Completion
from services.gateway.edge.openapi import describe
from tests.gateway.edge.conftest import Edge
from tests.gateway.edge.model_folder import MODEL

EXAMPLES_PER_OPERATION = 40
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
C = TypeVar("C", ChatChunk, Completion)
LOGPROBS = {"logprobs": True, "top_logprobs": 2}


def test_every_status_of_the_error_table_is_described() -> None:
    """A client generated from the description knows all that can come back."""
    described = json.loads(describe("1"))["paths"]
    for path in ("/v1/chat/completions", "/v1/completions"):
        statuses = {int(s) for s in described[path]["post"]["responses"]}
        assert {row.http_status for row in TABLE.values()} | {200, 405, 408, 415, 431} == statuses


async def test_what_is_served_is_what_is_described(edge: Edge) -> None:
    """Each described path answers something else than unknown, and each served JSON path is described."""
    described = (await edge.http.get("/openapi.json")).json()
    assert described["openapi"].startswith("3.1")
    for path, methods in described["paths"].items():
        for method in methods:
            answer = await edge.http.request(method, path.replace("{model}", MODEL))
            assert answer.status_code != 405
            if answer.status_code == 404:
                assert answer.json()["error"]["code"] == "request_not_found"


def chunks_of(answer: httpx.Response, kind: type[C]) -> list[C]:
    """Decode all events of a stream that must be complete."""
    *lines, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [msgspec.json.decode(line.removeprefix("data: "), type=kind) for line in lines]


@pytest.mark.parametrize("extra", [{}, {"n": 2}, {"stream_options": {"include_usage": True}}, LOGPROBS])
async def test_events_decode_as_described(edge: Edge, extra: dict[str, object]) -> None:
    """Events are put together from bytes; each still decodes, strictly, as the described struct."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 30, "stream": True}
    chat = await edge.http.post("/v1/chat/completions", json=body | extra)
    text = {"model": MODEL, "prompt": "hi", "max_tokens": 30, "stream": True}
    completion = await edge.http.post(
        "/v1/completions", json=text | ({"logprobs": 2} if extra is LOGPROBS else extra)
    )
    assert all(c.choices or c.usage for c in chunks_of(chat, ChatChunk))
    assert all(c.choices or c.usage for c in chunks_of(completion, Completion))


async def test_answers_decode_as_described(edge: Edge) -> None:
    """Whole answers and errors decode as the described structs."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    chat = await edge.http.post("/v1/chat/completions", json=body | LOGPROBS)
    text = await edge.http.post("/v1/completions", json={"model": MODEL, "prompt": "hi", "logprobs": 1})
    wrong = await edge.http.post("/v1/completions", json={})
    assert msgspec.json.decode(chat.content, type=ChatCompletion).choices[0].logprobs is not None
    assert msgspec.json.decode(text.content, type=Completion).choices[0].logprobs is not None
    assert msgspec.json.decode(wrong.content, type=ErrorBody).error.code == "invalid_request"


def attack(url: str) -> Counter[tuple[str, int]]:
    """Send generated calls, right and wrong, to every operation; count answers by operation and status."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    chosen: Any = checks.CHECKS.get_by_names(list(CHECKS))
    seen: Counter[tuple[str, int]] = Counter()
    operations: Any = schema.get_all_operations()
    for found in operations:
        operation = found.ok()
        count = EXAMPLES_PER_OPERATION if operation.method == "post" else EXAMPLES_PER_OPERATION // 4
        right = operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
        wrong = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

        @seed(1)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=right | wrong)
        def call(case: "schemathesis.Case[Any]") -> None:
            answer = case.call_and_validate(base_url=url, checks=chosen)
            seen[case.operation.path, answer.status_code] += 1

        call()
    return seen


async def test_no_generated_call_finds_a_fault(edge: Edge) -> None:
    """Calls made from the description, right and wrong, find no 5xx and no undescribed answer."""
    seen = await asyncio.to_thread(attack, edge.url)
    described = (await edge.http.get("/openapi.json")).json()["paths"]
    # schemathesis leaves out the path that it read the description from.
    assert {path for path, _ in seen} == set(described) - {"/openapi.json"}
    assert seen["/v1/completions", 400] > 0
    assert not [status for _, status in seen if status >= 500]
    assert edge.serving.active_count == 0
