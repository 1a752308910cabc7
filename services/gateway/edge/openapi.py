"""The description of the HTTP API, OpenAPI 3.1, made from the structs that parse and answer.

Comes in: those structs. Goes out: JSON. Invariant: each status that a route can answer is listed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from services.gateway.edge.error_table import TABLE, ErrorBody
from services.gateway.edge.inspection import Health, RecordList
from services.gateway.edge.openai_calls import ChatBody, CompletionBody
from services.gateway.edge.openai_replies import ChatChunk, ChatCompletion, Completion, ModelCard, ModelList
from services.gateway.port import ClusterState, RequestRecord

_STRUCTS = (
    ChatBody,
    ChatChunk,
    ChatCompletion,
    ClusterState,
    Completion,
    CompletionBody,
    ErrorBody,
    Health,
    ModelCard,
    ModelList,
    RecordList,
    RequestRecord,
)
_REFERENCE = "#/components/schemas/{name}"

# OpenAPI is a deeply nested document of plain JSON; typing it would say nothing.
Node = dict[str, Any]

_WHY: Mapping[int, str] = {
    400: "The request is wrong; `param` names the field.",
    404: "There is no such model, request or path.",
    405: "Another method is served at this path.",
    408: "The request did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "No room now; `Retry-After` says when to come back.",
    431: "The request line and headers are too large.",
    499: "The client left before the answer.",
    500: "A fault of Baton.",
    503: "No worker can serve this now, or one was lost.",
    504: "The deadline passed.",
}
_ALWAYS = (400, 404, 405, 408, 431, 500, 503)
"""What any path can answer: bytes that are no HTTP, slow or huge heads, too many connections."""


def describe(version: str) -> bytes:
    """Render the description.

    Args:
        version: of Baton.
    """
    _, components = msgspec.json.schema_components(_STRUCTS, ref_template=_REFERENCE)
    document: Node = {
        "openapi": "3.1.0",
        "info": {
            "title": "Baton",
            "version": version,
            "description": "OpenAI-compatible inference on prefill and decode pools.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(),
        "components": {"schemas": components},
    }
    return msgspec.json.encode(document)


def _paths() -> Node:
    model = _path_parameter("model", "Name of a model, as in the list.")
    request = _path_parameter("request_id", "`x-request-id` of an answer; of one choice, `<id>-<index>`.")
    return {
        "/v1/chat/completions": {
            "post": _generation("createChatCompletion", "Answer a chat", ChatBody, ChatCompletion, ChatChunk)
        },
        "/v1/completions": {
            "post": _generation("createCompletion", "Continue a text", CompletionBody, Completion, Completion)
        },
        "/v1/models": {"get": _look("listModels", "List served models", ModelList)},
        "/v1/models/{model}": {"get": _look("getModel", "Describe a served model", ModelCard, [model])},
        "/health/live": {"get": _look("isLive", "Say whether the process answers", Health)},
        "/health/ready": {"get": _look("isReady", "Say whether requests can be served", Health)},
        "/metrics": {"get": _text("getMetrics", "Metrics for Prometheus", "text/plain")},
        "/openapi.json": {"get": _text("getDescription", "This description", "application/json")},
        "/baton/v1/requests": {"get": _look("listRequests", "List requests, newest first", RecordList)},
        "/baton/v1/requests/{request_id}": {
            "get": _look("explainRequest", "Explain one request", RequestRecord, [request])
        },
        "/baton/v1/cluster": {"get": _look("describeCluster", "Describe the cluster", ClusterState)},
    }


def _generation(name: str, summary: str, body: type, whole: type, chunk: type) -> Node:
    statuses = {row.http_status for row in TABLE.values()} | {*_ALWAYS, 415}
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [
            _header(
                "x-request-id",
                {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
                "Name of this request, for `baton explain`; made when it is not given.",
            ),
            _header(
                "x-request-timeout-s",
                {"type": "number", "exclusiveMinimum": 0},
                "Seconds until the answer is worth nothing.",
            ),
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _reference(body)}}},
        "responses": {
            "200": {
                "description": "The answer; with `stream: true`, events that each carry a chunk, ended by "
                "`[DONE]` or by an error.",
                "headers": {"x-request-id": {"schema": {"type": "string"}}},
                "content": {
                    "application/json": {"schema": _reference(whole)},
                    "text/event-stream": {
                        "schema": {"type": "string"},
                        "x-event-data": _reference(chunk),
                    },
                },
            },
            **_errors(sorted(statuses)),
        },
    }


def _look(name: str, summary: str, answer: type, parameters: Sequence[Node] = ()) -> Node:
    content = {"application/json": {"schema": _reference(answer)}}
    return _get(name, summary, content, parameters)


def _text(name: str, summary: str, kind: str) -> Node:
    return _get(name, summary, {kind: {"schema": {}}}, ())


def _get(name: str, summary: str, content: Node, parameters: Sequence[Node]) -> Node:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": list(parameters),
        "responses": {"200": {"description": "The answer.", "content": content}, **_errors(_ALWAYS)},
    }


def _errors(statuses: Sequence[int]) -> Node:
    content = {"application/json": {"schema": _reference(ErrorBody)}}
    return {str(s): {"description": _WHY[s], "content": content} for s in statuses}


def _reference(struct: type) -> Node:
    return {"$ref": _REFERENCE.format(name=struct.__name__)}


def _path_parameter(name: str, text: str) -> Node:
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "description": text, "schema": schema}


def _header(name: str, schema: Node, text: str) -> Node:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
