"""The answers of the OpenAI API, whole and in chunks.

Comes in: nothing, these are the shapes. Goes out: structs to encode and to describe the API.
Invariant: what is sent decodes as these (chunks are put together from bytes, see `chunks`).
"""

from typing import Literal

import msgspec

Reason = Literal["stop", "length"]


class AlternativeToken(msgspec.Struct, frozen=True):
    """A likely token at one place."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(msgspec.Struct, frozen=True):
    """The sampled token at one place and what else was likely there."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[AlternativeToken]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of a chat choice."""

    content: list[ChatToken]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of a completion choice; all lists have one entry per token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class PromptDetails(msgspec.Struct, frozen=True):
    """What is known of the prompt's tokens."""

    cached_tokens: int


class UsageReport(msgspec.Struct, frozen=True):
    """Tokens of a call; a prompt counts once however many choices it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class ReplyMessage(msgspec.Struct, frozen=True):
    """The assistant's turn."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    """One answer to a chat call."""

    index: int
    message: ReplyMessage
    logprobs: ChatLogprobs | None
    finish_reason: Reason


class ChatCompletion(msgspec.Struct, frozen=True):
    """Whole answer of POST /v1/chat/completions."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageReport
    object: Literal["chat.completion"] = "chat.completion"


class ChatDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to a message."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(msgspec.Struct, frozen=True):
    """One choice in a chunk."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Reason | None = None


class ChatChunk(msgspec.Struct, frozen=True):
    """One event of a chat stream."""

    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: UsageReport | None = None
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"


class CompletionChoice(msgspec.Struct, frozen=True):
    """One answer to a completion call; in chunks the reason is null until the last."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Reason | None


class Completion(msgspec.Struct, frozen=True):
    """Whole answer of POST /v1/completions, and one event of its stream."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageReport | None = None
    object: Literal["text_completion"] = "text_completion"


class ModelCard(msgspec.Struct, frozen=True):
    """A served model."""

    id: str
    created: int
    context_tokens_max: int
    object: Literal["model"] = "model"
    owned_by: str = "baton"


class ModelList(msgspec.Struct, frozen=True):
    """Answer of GET /v1/models."""

    data: list[ModelCard]
    object: Literal["list"] = "list"
