"""A routing decision and everything it was made from, so that it can be explained and replayed.

Comes in: what is known of a request. Goes out: a frozen record kept by the gateway per request.
Invariant: the record names the candidates that were looked at, each with its numbers or why it was out.
Not here: the decision itself (`services.router`).
"""

from dataclasses import dataclass
from enum import StrEnum

from services.domain.blocks import BlockHash, CacheScope
from services.domain.ids import RequestId, TaskId, WorkerId
from services.domain.slo import WHOLE, Margins


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
class PlacementQuery:
    """What a router needs to know of a request to say where its prompt is prefilled.

    Attributes:
        request_id: whose; also breaks ties.
        scope: its model is what workers must serve.
        prompt_tokens: length of the prompt, >= 1.
        block_hashes: hash of every full block of the prompt, in order; may be empty.
        output_tokens_max: most tokens to generate, >= 1.
        output_tokens_expected: as many as such requests of the model write on average, in
            [1, output_tokens_max]; None while nobody knows.
        priority: smaller is more urgent; above 0 is batch work, which interactive work goes before.
        deadline_s: time left; None waits without limit.
        waited_s: since the gateway accepted it.
        begun: whether work on it has begun before, so that it must not be refused for being late.
        margins: what is kept under overload because predictions of the model have missed of late.
        preference: restricts the paths where that is possible.
        avoid_worker_ids: workers that must not be chosen, because they failed this request before.
    """

    request_id: RequestId
    scope: CacheScope
    prompt_tokens: int
    block_hashes: tuple[BlockHash, ...]
    output_tokens_max: int
    output_tokens_expected: int | None = None
    priority: int = 0
    deadline_s: float | None = None
    waited_s: float = 0.0
    begun: bool = False
    margins: Margins = WHOLE
    preference: PathPreference = PathPreference.AUTO
    avoid_worker_ids: tuple[WorkerId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeQuery:
    """What a router needs to know of a handed-over prompt to say who continues it.

    Attributes:
        request_id: whose; also breaks ties.
        scope: its model is what workers must serve.
        context_tokens: tokens whose KV is handed over, and tokens generated so far.
        output_tokens_max: most tokens still to generate, >= 1.
        output_tokens_expected: as many as are expected to follow, in [1, output_tokens_max]; None while
            nobody knows.
        compatibility: engine layout that the ticket's KV has.
        avoid_worker_ids: workers that must not be chosen, because they failed this request before.
        holder_id: who computed the prompt; nothing has to move when it goes on itself.
        waited_s: from its placement until a worker claimed the prompt; None where nobody knows.
        task_id: under which the prompt was in the queue: its worker has done with it, though the queue may
            still show it; None where nobody knows.
    """

    request_id: RequestId
    scope: CacheScope
    context_tokens: int
    output_tokens_max: int
    compatibility: str
    output_tokens_expected: int | None = None
    avoid_worker_ids: tuple[WorkerId, ...] = ()
    holder_id: WorkerId | None = None
    waited_s: float | None = None
    task_id: TaskId | None = None


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
        ttft_s: sum of the three and of the decode steps that stand before the first token: those that
            share the prefill's steps, and for REMOTE the first step of the request itself.
        tpot_s: step of the decode worker with this request in it: time per token after the first.
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
    tpot_s: float = 0.0
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
        predicted_tpot_s: of the chosen candidate.
        predicted_s: until the last token, if the output is as long as expected; until the first one
            while nothing is known of its length.
        reason: one sentence for a person.
        candidates: best first, excluded ones last; of a large fleet only the best, as many as the
            router's settings keep.
        margins: those it was let in with under overload; None when the targets did not bound it.
    """

    request_id: RequestId
    path: Path
    worker_id: WorkerId
    overlap_blocks: int
    predicted_ttft_s: float
    predicted_tpot_s: float
    predicted_s: float
    reason: str
    candidates: tuple[Candidate, ...]
    margins: Margins | None = None


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
