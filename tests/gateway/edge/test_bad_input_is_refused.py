"""Wrong input gets the right status and an OpenAI error body, and nothing behind the edge hears of it."""

import json
from collections.abc import AsyncIterator

import pytest

from services.gateway.rehearsal import Script
from tests.gateway.edge.conftest import Edge, StartEdge
from tests.gateway.edge.model_folder import CONTEXT_TOKENS, MODEL

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": MODEL, "prompt": "hi"}


async def refusal(
    edge: Edge, path: str, content: bytes, **headers: str
) -> tuple[int, str | None, str | None]:
    """Post bytes; give back status, code and param, after checking the shape of the body."""
    answer = await edge.http.post(
        path, content=content, headers={"content-type": "application/json"} | headers
    )
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert not edge.serving.recent()
    return answer.status_code, error["code"], error["param"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": 5}, "model"),
        ({"messages": "hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 10**30}, "max_completion_tokens"),
        ({"min_tokens": 9, "max_tokens": 5}, "min_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"seed": 2**63}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop[0]"),
        ({"stop_token_ids": [100_000]}, "stop_token_ids"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"100000": 1}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}},
            "response_format.json_schema.schema",
        ),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"baton": {"prefill": "elsewhere"}}, "baton.prefill"),
        ({"cache_salt": 1}, "cache_salt"),
    ],
)
async def test_a_wrong_field_of_a_chat_is_named(edge: Edge, change: dict[str, object], param: str) -> None:
    """Wrong types and ranges are 400 and say which field it is."""
    body = json.dumps(CHAT | change).encode()
    assert await refusal(edge, "/v1/chat/completions", body) == (400, "invalid_request", param)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{}]}, "functions"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"store": True}, "store"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
        ),
    ],
)
async def test_what_is_not_served_is_said(edge: Edge, change: dict[str, object], param: str) -> None:
    """A feature that OpenAI has and Baton has not is refused by name, never ignored."""
    body = json.dumps(CHAT | change).encode()
    assert await refusal(edge, "/v1/chat/completions", body) == (400, "unsupported", param)


async def test_defaults_of_unserved_fields_do_no_harm(edge: Edge) -> None:
    """Clients that always send a field with its default, or one that nobody knows, are served."""
    extra = {"tools": [], "tool_choice": "none", "store": False, "user": "u", "from_the_future": {"a": 1}}
    nulls = dict.fromkeys(("temperature", "stop", "max_tokens", "logit_bias", "functions", "n", "baton"))
    body = CHAT | extra | nulls | {"max_completion_tokens": 2}
    answer = await edge.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("", "invalid_request"),
        ([], "invalid_request"),
        ([[]], "invalid_request"),
        ([1, "a"], "invalid_request"),
        ([-1], "invalid_request"),
        ([100_000], "invalid_request"),
        ([[1], [100_000]], "invalid_request"),
        (None, "invalid_request"),
        ({}, "invalid_request"),
        ([5] * CONTEXT_TOKENS, "context_length_exceeded"),
    ],
)
async def test_a_wrong_prompt_is_refused(edge: Edge, prompt: object, code: str) -> None:
    """Empty, mixed, foreign or too long: 400 with the prompt named."""
    status, got, param = await refusal(
        edge, "/v1/completions", json.dumps(TEXT | {"prompt": prompt}).encode()
    )
    assert (status, got) == (400, code)
    assert param is not None
    assert param.startswith("prompt")


@pytest.mark.parametrize("change", [{"echo": True}, {"suffix": "x"}, {"best_of": 3}])
async def test_completion_features_not_served_are_said(edge: Edge, change: dict[str, object]) -> None:
    """Echo, suffix and best_of are refused by name."""
    status, code, param = await refusal(edge, "/v1/completions", json.dumps(TEXT | change).encode())
    assert (status, code, param) == (400, "unsupported", next(iter(change)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"model": "words"} x',
        b'{"model": NaN}',
        b'{"model": "words", "prompt": "hi", "temperature": Infinity}',
        b'{"model": "words", "prompt": "hi", "temperature": 1e999}',
        b'{"model": "words", "prompt": "\xff\xfe"}',
        b'{"model": "words", "prompt": "hi", "unknown": "\xff"}',
        b'{"model": "words", "prompt": "\\ud800"}',
        b'{"model": "words", "prompt": "hi", "seed": 1' + b"0" * 5000 + b"}",
        b'{"model": "words", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "words", "prompt": "hi", "unknown": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "words", "prompt": "hi", "echo": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    ],
)
async def test_what_is_no_json_is_refused(edge: Edge, content: bytes) -> None:
    """Malformed, not UTF-8, not finite, too deep: 400, and the server lives."""
    status, code, _ = await refusal(edge, "/v1/completions", content)
    assert (status, code) == (400, "invalid_request")


async def test_an_unknown_model_is_not_found(edge: Edge) -> None:
    """The name of a model nobody serves is 404."""
    body = json.dumps(CHAT | {"model": "nobody"}).encode()
    assert await refusal(edge, "/v1/chat/completions", body) == (404, "model_not_found", "model")


async def test_more_output_than_context_is_refused(edge: Edge) -> None:
    """A max_tokens that cannot fit behind the prompt is refused, not cut."""
    body = json.dumps(CHAT | {"max_tokens": CONTEXT_TOKENS}).encode()
    status, code, _ = await refusal(edge, "/v1/chat/completions", body)
    assert (status, code) == (400, "context_length_exceeded")


@pytest.mark.parametrize("value", ["", "a b", "x" * 129, "é"])
async def test_a_wrong_request_id_is_refused(edge: Edge, value: str) -> None:
    """An id must be able to travel in headers, file names and commands."""
    answer = await edge.http.post(
        "/v1/completions", json=TEXT, headers=[(b"x-request-id", value.encode("latin-1"))]
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-request-id")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", "1e9"])
async def test_a_wrong_deadline_is_refused(edge: Edge, value: str) -> None:
    """A deadline is a positive, finite number of seconds within the bound."""
    status, _, param = await refusal(
        edge, "/v1/completions", json.dumps(TEXT).encode(), **{"x-request-timeout-s": value}
    )
    assert (status, param) == (400, "x-request-timeout-s")


async def test_unknown_paths_methods_and_types(edge: Edge) -> None:
    """404, 405 and 415 have error bodies too, and 405 says what is allowed."""
    missing = await edge.http.get("/v1/nothing")
    wrong = await edge.http.get("/v1/completions")
    form = await edge.http.post("/v1/completions", data={"prompt": "hi"})
    assert [a.status_code for a in (missing, wrong, form)] == [404, 405, 415]
    assert all(a.json()["error"]["code"] for a in (missing, wrong, form))
    assert wrong.headers["allow"] == "POST"


async def test_a_large_body_is_refused_said_or_counted(start_edge: StartEdge, script: Script) -> None:
    """Larger than the bound is 413, whether the length is announced or only found out."""
    edge = await start_edge(script, body_bytes_max=10_000)
    body = json.dumps(TEXT | {"prompt": "x" * 20_000}).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    said = await edge.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    counted = await edge.http.post("/v1/completions", content=chunks())
    assert [a.status_code for a in (said, counted)] == [413, 413]
    assert said.json()["error"]["code"] == counted.json()["error"]["code"] == "body_too_large"
    assert (await edge.http.post("/v1/completions", json=TEXT)).status_code == 200
