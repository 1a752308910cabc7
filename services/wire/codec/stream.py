"""Step frames on the wire: the hot path, one message per engine step and gateway.

Invariant: what is written comes back equal. Fields are set one by one and repeated fields are read by a
slice because both measured faster than the plain form (protobuf 7.36, upb); the time of a whole frame is
taken by `tests/bench/bench_step_frames.py`.
"""

from services.domain.ids import RequestId
from services.domain.stream import Delta, FinishReason, StepFrame, TokenLogprob
from services.wire.codec.failure import error_from_proto, error_to_proto
from services.wire.codec.fields import fault, identity, known, number
from services.wire.generated.baton.internal.v1 import request_pb2 as pb
from services.wire.generated.baton.internal.v1 import worker_pb2

_FINISH_TO_PROTO = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.ABORTED: pb.FINISH_REASON_ABORTED,
    FinishReason.ERROR: pb.FINISH_REASON_ERROR,
}
_FINISH_FROM_PROTO = {int(v): k for k, v in _FINISH_TO_PROTO.items()}


def fill_delta(message: pb.Delta, delta: Delta) -> None:
    """Write a delta into an empty message.

    Raises:
        ValueError: `error` is set without the finish that goes with it, or the other way round.
    """
    message.request_id = delta.request_id
    message.token_ids.extend(delta.token_ids)
    if delta.logprobs:
        message.logprobs.extend(map(logprob_to_proto, delta.logprobs))
    if delta.finish is not None:
        message.finish = _FINISH_TO_PROTO[delta.finish]
    if delta.error is not None:
        message.error.CopyFrom(error_to_proto(delta.error))
    if (delta.error is not None) != (delta.finish is FinishReason.ERROR):
        raise ValueError("Delta.error is set exactly when the finish is an error")
    if delta.cached_tokens is not None:
        message.cached_tokens = delta.cached_tokens
    if delta.local_prefill_s is not None:
        message.local_prefill_s = delta.local_prefill_s


def delta_to_proto(delta: Delta) -> pb.Delta:
    """Write a delta."""
    message = pb.Delta()
    fill_delta(message, delta)
    return message


def delta_from_proto(message: pb.Delta) -> Delta:
    """Read a delta.

    Raises:
        WireError: a field is missing or malformed, or `finish` is unknown.
    """
    has = message.HasField
    request_id = RequestId(message.request_id or identity("Delta.request_id", ""))
    token_ids = tuple(message.token_ids[:])
    has_error, has_prefill = has("error"), has("local_prefill_s")
    if not (message.finish or message.logprobs or has_error or has_prefill or has("cached_tokens")):
        return Delta(request_id=request_id, token_ids=token_ids)
    finish = known("Delta.finish", _FINISH_FROM_PROTO, message.finish) if message.finish else None
    if has_error != (finish is FinishReason.ERROR):
        raise fault("Delta.error", "is not set exactly when the finish is an error")
    return Delta(
        request_id=request_id,
        token_ids=token_ids,
        logprobs=tuple(map(logprob_from_proto, message.logprobs)),
        finish=finish,
        error=error_from_proto(message.error) if has_error else None,
        cached_tokens=message.cached_tokens if has("cached_tokens") else None,
        local_prefill_s=number("Delta.local_prefill_s", message.local_prefill_s) if has_prefill else None,
    )


def logprob_to_proto(logprob: TokenLogprob) -> pb.TokenLogprob:
    """Write the log-probabilities at one place."""
    return pb.TokenLogprob(
        token_id=logprob.token_id,
        logprob=logprob.logprob,
        top_token_ids=[t for t, _ in logprob.top],
        top_logprobs=[p for _, p in logprob.top],
    )


def logprob_from_proto(message: pb.TokenLogprob) -> TokenLogprob:
    """Read the log-probabilities at one place.

    Raises:
        WireError: the alternatives' ids and values differ in number.
    """
    ids, values = message.top_token_ids[:], message.top_logprobs[:]
    if len(ids) != len(values):
        raise fault("TokenLogprob.top_logprobs", f"has {len(values)} values for {len(ids)} tokens")
    top = tuple(zip(ids, values, strict=True))
    return TokenLogprob(token_id=message.token_id, logprob=message.logprob, top=top)


def fill_frame(message: worker_pb2.StepFrame, frame: StepFrame) -> None:
    """Write a step frame into an empty message."""
    message.step = frame.step
    add = message.deltas.add
    for delta in frame.deltas:
        fill_delta(add(), delta)


def frame_from_proto(message: worker_pb2.StepFrame) -> StepFrame:
    """Read a step frame.

    Raises:
        WireError: one of its deltas is malformed.
    """
    return StepFrame(step=message.step, deltas=tuple(map(delta_from_proto, message.deltas)))
