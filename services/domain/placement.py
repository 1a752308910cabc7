"""A routing decision and everything it was made from, so that it can be explained and replayed.

Comes in: the router's pure call. Goes out: a frozen record kept by the gateway per request.
Invariant: the record names every candidate that was looked at, with its numbers or why it was out.
Not here: the decision itself (`services.router`).
"""

from dataclasses import dataclass
from enum import StrEnum

from services.domain.ids import RequestId, WorkerId


class Path(StrEnum):
    """Where a prompt is prefilled."""

    LOCAL = "local"
    """By the decode worker that will write the tokens."""
    REMOTE = "remote"
    """By a prefill worker, through the queue."""


class PathPreference(StrEnum):
    """What a caller or a setting may ask of the router."""

    AUTO = "auto"
    LOCAL = "local"
    REMOTE = "remote"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to serve a request, with its predicted cost.

    Attributes:
        path: where the prompt would be prefilled.
        worker_id: the worker that would prefill (LOCAL: and decode).
        overlap_blocks: leading blocks it holds.
        uncached_tokens: prompt tokens it would compute.
        wait_s: until its prefill would start.
        prefill_s: computing the uncached tokens.
        transfer_s: moving the KV to a decode worker; 0 for LOCAL.
        ttft_s: sum of the three and of the first decode step.
        harm_s: seconds that requests already running would lose beyond their TPOT target, summed.
        cost_s: what is compared: ttft_s + harm_s.
        excluded: why it cannot be chosen; None when it can.
    """

    path: Path
    worker_id: WorkerId
    overlap_blocks: int = 0
    uncached_tokens: int = 0
    wait_s: float = 0.0
    prefill_s: float = 0.0
    transfer_s: float = 0.0
    ttft_s: float = 0.0
    harm_s: float = 0.0
    cost_s: float = 0.0
    excluded: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The decision for one request.

    Attributes:
        request_id: whose.
        path: what was chosen.
        worker_id: LOCAL: the worker that serves it. REMOTE: the prefill worker that looks best now,
            a hint and no tie.
        overlap_blocks: leading blocks that worker holds.
        predicted_ttft_s: of the chosen candidate.
        reason: one sentence for a person.
        candidates: every candidate, best first, excluded ones last.
    """

    request_id: RequestId
    path: Path
    worker_id: WorkerId
    overlap_blocks: int
    predicted_ttft_s: float
    reason: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCandidate:
    """One decode worker looked at for a handoff.

    Attributes:
        worker_id: who.
        step_s: its predicted step with the request added.
        kv_free_frac: free share of its KV after the request, in [0, 1].
        cost_s: what is compared.
        excluded: why it cannot be chosen; None when it can.
    """

    worker_id: WorkerId
    step_s: float = 0.0
    kv_free_frac: float = 0.0
    cost_s: float = 0.0
    excluded: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePlacement:
    """Which decode worker continues a handed-over prompt."""

    request_id: RequestId
    worker_id: WorkerId
    reason: str
    candidates: tuple[DecodeCandidate, ...]
