"""Sampling fields of a body to the domain's `Sampling`.

Comes in: a body whose ranges are right. Goes out: sampling without length and seed of a choice.
Invariant: defaults are OpenAI's; nothing that was asked for is lost.
"""

import dataclasses
from typing import TypeVar

import msgspec

from services.domain.errors import InvalidRequest
from services.domain.request import Sampling
from services.gateway.edge.openai_calls import INT64_MAX, ChatBody, CompletionBody, ResponseFormat

T = TypeVar("T")


def check_sampling(body: ChatBody | CompletionBody, *, logprobs_count: int | None) -> Sampling:
    """Read the sampling of a body; `max_tokens` and the seed of each choice come later.

    Raises:
        InvalidRequest: a field is wrong in a way its type cannot say.
    """
    return Sampling(
        max_tokens=1,
        min_tokens=_or(body.min_tokens, 0),
        temperature=_or(body.temperature, 1.0),
        top_p=_or(body.top_p, 1.0),
        top_k=max(_or(body.top_k, 0), 0),
        min_p=_or(body.min_p, 0.0),
        seed=body.seed,
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        logit_bias=_logit_bias(body.logit_bias or {}),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=_or(body.ignore_eos, False),
        logprobs_count=logprobs_count,
        json_schema=_json_schema(body.response_format),
    )


def choose_seed(sampling: Sampling, choice: int, *, max_tokens: int) -> Sampling:
    """Give one choice its length and a seed of its own: seed + choice, within 64 bits.

    Raises:
        InvalidRequest: min_tokens is more than max_tokens.
    """
    if sampling.min_tokens > max_tokens:
        raise InvalidRequest(
            message=f"min_tokens ({sampling.min_tokens}) is more than max_tokens ({max_tokens})",
            param="min_tokens",
        )
    seed = sampling.seed
    if seed is not None and choice:
        seed += choice
        if seed > INT64_MAX:
            seed -= 2**64
    return dataclasses.replace(sampling, max_tokens=max_tokens, seed=seed)


def choose_stops(body: ChatBody | CompletionBody) -> tuple[str, ...]:
    """Read the stop strings, each once."""
    match body.stop:
        case None:
            return ()
        case str() as one:
            return (one,)
        case several:
            return tuple(dict.fromkeys(several))


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _logit_bias(biases: dict[str, float]) -> tuple[tuple[int, float], ...]:
    pairs = []
    for key, bias in biases.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise InvalidRequest(message=f"logit_bias: {key!r} is no token id", param="logit_bias")
        pairs.append((int(key), bias))
    return tuple(pairs)


def _json_schema(wanted: ResponseFormat | None) -> str | None:
    """Read the schema that the output must match, as JSON text."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return '{"type":"object"}'
    at = "response_format.json_schema"
    if wanted.json_schema is None or wanted.json_schema.schema is msgspec.UNSET:
        raise InvalidRequest(message=f"{at}.schema: required, but missing", param=f"{at}.schema")
    raw = wanted.json_schema.schema
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(message=f"{at}.schema: {error}", param=f"{at}.schema") from None
    if not isinstance(value, dict):
        raise InvalidRequest(message=f"{at}.schema: must be an object", param=f"{at}.schema")
    return bytes(raw).decode()
