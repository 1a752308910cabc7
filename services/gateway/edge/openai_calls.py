"""The request bodies of the OpenAI API, as far as Baton serves them, and Baton's own extensions.

Comes in: nothing, these are the shapes. Goes out: structs for parsing and for the API's description.
Invariant: types and ranges are told here once, and the API's description is generated from the same.
Fields that OpenAI knows and Baton does not serve are `Unserved`: they are refused when they ask
for something (`services.gateway.edge.unserved`). Fields that nobody knows are ignored, as OpenAI does,
so that newer clients go on working.
Not here: rules that span fields (`services.gateway.edge.intake`).
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Unserved = msgspec.Raw | msgspec.UnsetType
"""Any JSON value, not looked into."""

INT32_MAX = 2**31 - 1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

_Count = Annotated[int, Meta(ge=1, le=INT32_MAX)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_TokenId = Annotated[int, Meta(ge=0, le=INT32_MAX)]
_StopText = Annotated[str, Meta(min_length=1, max_length=256)]
_Alternatives = Annotated[int, Meta(ge=0, le=20, description="vLLM reports at most 20.")]


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream carries beside the text."""

    include_usage: bool | None = None


class BatonOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Baton's own options."""

    prefill: Annotated[
        Literal["auto", "local", "remote"],
        Meta(description="Where the prompt is prefilled; auto lets the router decide."),
    ] = "auto"


class JsonSchemaFormat(msgspec.Struct, frozen=True, kw_only=True):
    """A named JSON schema."""

    name: Annotated[str, Meta(max_length=256)] = "schema"
    description: str | None = None
    schema: Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True, kw_only=True):
    """What the output must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class ContentPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a message; only text is served."""

    type: str
    text: str | None = None


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One turn; tools are not served."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: Unserved = msgspec.UNSET
    function_call: Unserved = msgspec.UNSET


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    """What both APIs share."""

    model: Annotated[str, Meta(max_length=512)]
    max_tokens: _Count | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=INT32_MAX)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=INT32_MAX, description="-1 and 0 keep all tokens.")] | None = None
    min_p: _Share | None = None
    seed: Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)] | None = None
    n: Annotated[int, Meta(ge=1, le=16)] | None = None
    stop: _StopText | Annotated[list[_StopText], Meta(max_length=4)] | None = None
    stop_token_ids: Annotated[list[_TokenId], Meta(max_length=128)] | None = None
    ignore_eos: bool | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None
    logit_bias: (
        Annotated[dict[str, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=1024)] | None
    ) = None
    response_format: ResponseFormat | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    priority: (
        Annotated[int, Meta(ge=-INT32_MAX, le=INT32_MAX, description="Smaller is more urgent.")] | None
    ) = None
    cache_salt: (
        Annotated[str, Meta(max_length=256, description="Prompts share KV only under one salt.")] | None
    ) = None
    baton: BatonOptions | None = None

    service_tier: Unserved = msgspec.UNSET
    store: Unserved = msgspec.UNSET


class ChatBody(_Body, frozen=True, kw_only=True):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: _Count | None = None
    logprobs: bool | None = None
    top_logprobs: _Alternatives | None = None

    tools: Unserved = msgspec.UNSET
    tool_choice: Unserved = msgspec.UNSET
    functions: Unserved = msgspec.UNSET
    function_call: Unserved = msgspec.UNSET
    modalities: Unserved = msgspec.UNSET
    audio: Unserved = msgspec.UNSET
    prediction: Unserved = msgspec.UNSET
    reasoning_effort: Unserved = msgspec.UNSET
    verbosity: Unserved = msgspec.UNSET
    web_search_options: Unserved = msgspec.UNSET


class CompletionBody(_Body, frozen=True, kw_only=True):
    """Body of POST /v1/completions."""

    prompt: Annotated[
        str | Annotated[list[str | _TokenId | list[_TokenId]], Meta(min_length=1)],
        Meta(description="A text, texts, the token ids of one prompt, or those of several."),
    ]
    logprobs: _Alternatives | None = None

    echo: Unserved = msgspec.UNSET
    suffix: Unserved = msgspec.UNSET
    best_of: Unserved = msgspec.UNSET
