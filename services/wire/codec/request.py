"""Requests on the wire: cache scope, sampling, prompt.

Invariant: what is written comes back equal; prompts are packed, four bytes a token.
"""

from services.domain.blocks import CacheScope
from services.domain.ids import RequestId
from services.domain.request import InferenceRequest, Sampling
from services.wire.codec.fields import (
    fault,
    identity,
    number,
    pack_tokens,
    parse,
    positive,
    present,
    unpack_tokens,
    writing,
)
from services.wire.generated.baton.internal.v1 import request_pb2 as pb


def scope_to_proto(scope: CacheScope) -> pb.CacheScope:
    """Write a cache scope."""
    return pb.CacheScope(model=scope.model, adapter=scope.adapter, salt=scope.salt)


def scope_from_proto(message: pb.CacheScope) -> CacheScope:
    """Read a cache scope."""
    return CacheScope(model=message.model, adapter=message.adapter, salt=message.salt)


def sampling_to_proto(sampling: Sampling) -> pb.Sampling:
    """Write sampling options."""
    return pb.Sampling(
        max_tokens=sampling.max_tokens,
        min_tokens=sampling.min_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=sampling.seed,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        logit_bias=[pb.Sampling.LogitBias(token_id=t, bias=b) for t, b in sampling.logit_bias],
        stop_token_ids=sampling.stop_token_ids,
        ignore_eos=sampling.ignore_eos,
        logprobs_count=sampling.logprobs_count,
        json_schema=sampling.json_schema,
    )


def sampling_from_proto(message: pb.Sampling) -> Sampling:
    """Read sampling options.

    Raises:
        WireError: `max_tokens` is missing, or a number is none.
    """
    return Sampling(
        max_tokens=positive("Sampling.max_tokens", message.max_tokens),
        min_tokens=message.min_tokens,
        temperature=number("Sampling.temperature", message.temperature),
        top_p=number("Sampling.top_p", message.top_p),
        top_k=message.top_k,
        min_p=number("Sampling.min_p", message.min_p),
        seed=message.seed if message.HasField("seed") else None,
        presence_penalty=number("Sampling.presence_penalty", message.presence_penalty),
        frequency_penalty=number("Sampling.frequency_penalty", message.frequency_penalty),
        repetition_penalty=number("Sampling.repetition_penalty", message.repetition_penalty),
        logit_bias=tuple((b.token_id, number("Sampling.logit_bias", b.bias)) for b in message.logit_bias),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        logprobs_count=message.logprobs_count if message.HasField("logprobs_count") else None,
        json_schema=message.json_schema if message.HasField("json_schema") else None,
    )


def request_to_proto(request: InferenceRequest) -> pb.InferenceRequest:
    """Write a request."""
    return pb.InferenceRequest(
        request_id=request.request_id,
        scope=scope_to_proto(request.scope),
        prompt_token_ids=pack_tokens(request.prompt_token_ids),
        sampling=sampling_to_proto(request.sampling),
        priority=request.priority,
    )


def request_from_proto(message: pb.InferenceRequest) -> InferenceRequest:
    """Read a request.

    Raises:
        WireError: a field is missing or malformed.
    """
    present("InferenceRequest.scope", message, "scope")
    present("InferenceRequest.sampling", message, "sampling")
    prompt = unpack_tokens("InferenceRequest.prompt_token_ids", message.prompt_token_ids)
    if not prompt:
        raise fault("InferenceRequest.prompt_token_ids", "is missing")
    return InferenceRequest(
        request_id=RequestId(identity("InferenceRequest.request_id", message.request_id)),
        scope=scope_from_proto(message.scope),
        prompt_token_ids=prompt,
        sampling=sampling_from_proto(message.sampling),
        priority=message.priority,
    )


def encode_request(request: InferenceRequest) -> bytes:
    """Write a request, the body of a prefill task.

    Raises:
        WireError: a value does not fit its field.
    """
    with writing("InferenceRequest"):
        return request_to_proto(request).SerializeToString()


def decode_request(data: bytes) -> InferenceRequest:
    """Read a request.

    Raises:
        WireError: the bytes are no such message, or a field is missing or malformed.
    """
    return request_from_proto(parse(pb.InferenceRequest, data))
