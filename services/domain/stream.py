"""What leaves an engine: tokens per step, and exactly one end per request.

Comes in: an engine's steps. Goes out: deltas, gathered into one step frame per gateway and step.
Invariant: the last delta of a request carries `finish`; nothing of that request follows it.
Not here: text (the gateway detokenizes), transport (`services.link`).
"""

from dataclasses import dataclass
from enum import StrEnum

from services.domain.errors import ServingError
from services.domain.ids import RequestId


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    """End-of-sequence or stop token."""
    LENGTH = "length"
    """`max_tokens` or the model's context was reached."""
    ABORTED = "aborted"
    """Somebody asked for it: client left, deadline, stop string found by the gateway."""
    ERROR = "error"
    """The delta's `error` says what failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """Log-probability of one sampled token and of the likeliest alternatives at its place."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """Pairs (token id, logprob), likeliest first; shape [<= Sampling.logprobs_count]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """New tokens of one request in one engine step.

    Attributes:
        request_id: whose tokens.
        token_ids: shape [new_tokens]; empty only when `finish` is set.
        logprobs: shape [new_tokens], or empty when none were asked for.
        finish: set on the last delta of the request and on no other.
        error: set exactly when `finish` is ERROR.
        cached_tokens: prompt tokens whose KV was reused rather than computed; set on the first
            delta that a computed prompt gives, None on all others.
        local_prefill_s: time from submission to first token; set beside `cached_tokens`.
    """

    request_id: RequestId
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    error: ServingError | None = None
    cached_tokens: int | None = None
    local_prefill_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFrame:
    """Everything one engine step brought to one gateway: one message, however many requests."""

    step: int
    """Counts frames on this link, from 1."""
    deltas: tuple[Delta, ...]
