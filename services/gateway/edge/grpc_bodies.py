"""gRPC requests as the bodies that the HTTP API parses, and pieces as gRPC messages.

Comes in: protobuf. Goes out: the same structs as from JSON, so that ranges and defaults are told once.
Invariant: a field that a caller did not set takes OpenAI's default.
"""

from collections.abc import Sequence

import msgspec

from services.domain.errors import InvalidRequest
from services.gateway.edge.openai_calls import ChatBody, CompletionBody
from services.gateway.edge.sequence_text import Token
from services.gateway.edge.tally import Tally
from services.gateway.edge.vocabulary import Vocabulary
from services.wire.generated.baton.v1 import inference_pb2 as pb

_SAMPLING_FIELDS = frozenset(
    {
        "max_tokens",
        "min_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "ignore_eos",
    }
)
_PREFILL = {
    pb.PREFILL_PATH_UNSPECIFIED: "auto",
    pb.PREFILL_PATH_LOCAL: "local",
    pb.PREFILL_PATH_REMOTE: "remote",
}


def from_proto(request: pb.GenerateRequest) -> ChatBody | CompletionBody:
    """Read a request.

    Raises:
        InvalidRequest: a field is missing or out of range.
    """
    values = _values(request)
    try:
        match request.WhichOneof("input"):
            case "chat":
                messages = [{"role": m.role, "content": m.content} for m in request.chat.messages]
                return msgspec.convert(values | {"messages": messages}, ChatBody)
            case "text":
                return msgspec.convert(values | {"prompt": request.text}, CompletionBody)
            case "token_ids":
                return msgspec.convert(values | {"prompt": list(request.token_ids.ids)}, CompletionBody)
            case _:
                raise InvalidRequest(message="one of text, chat and token_ids must be set", param="input")
    except msgspec.ValidationError as error:
        raise InvalidRequest(message=str(error)) from None


def _values(request: pb.GenerateRequest) -> dict[str, object]:
    """Collect what is set, by the names of the JSON bodies."""
    sampling = request.sampling
    values: dict[str, object] = {
        "model": request.model,
        "stop": list(request.stop),
        "priority": request.priority,
        "cache_salt": request.cache_salt,
        "baton": {"prefill": _PREFILL.get(request.prefill_path, "auto")},
        "stop_token_ids": list(sampling.stop_token_ids),
    }
    for field, value in sampling.ListFields():
        if field.name in _SAMPLING_FIELDS:
            # A float of 32 bits has 7 digits: 0.7 is to mean what it means in JSON.
            values[field.name] = float(f"{value:.7g}") if isinstance(value, float) else value
    if sampling.HasField("logprobs"):
        chat = request.WhichOneof("input") == "chat"
        values |= (
            {"logprobs": True, "top_logprobs": sampling.logprobs} if chat else {"logprobs": sampling.logprobs}
        )
    if sampling.HasField("json_schema"):
        values["response_format"] = {
            "type": "json_schema",
            "json_schema": {"schema": msgspec.Raw(sampling.json_schema.encode())},
        }
    return values


def report_tokens(tokens: Sequence[Token], vocabulary: Vocabulary) -> list[pb.TokenLogprob]:
    """Render the log-probabilities of told tokens; empty when none were asked for."""
    return [
        pb.TokenLogprob(
            token_id=t.token_id,
            token=vocabulary.token_text(t.token_id),
            logprob=t.logprob.logprob,
            top=[
                pb.TokenLogprob.Alternative(token_id=i, token=vocabulary.token_text(i), logprob=p)
                for i, p in t.logprob.top
            ],
        )
        for t in tokens
        if t.logprob is not None
    ]


def report_usage(prompt_tokens: int, tally: Tally) -> pb.Usage:
    """Render the usage of a call."""
    return pb.Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=tally.output_tokens,
        cached_tokens=tally.cached_tokens,
    )
