"""Hypothesis strategies for every domain value that crosses a process.

Invariant: each draws from the whole range that a field's docstring and its protobuf type allow.
"""

from dataclasses import fields

from hypothesis import strategies as st

from services.domain.blocks import (
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    CacheScope,
    KvEventBatch,
    KvSnapshot,
)
from services.domain.errors import LEAVES, ServingError
from services.domain.handoff import Handoff, Ticket
from services.domain.ids import RequestId
from services.domain.integrity import CHECKS_MAX, BlockCheck
from services.domain.link import (
    Accepted,
    Cancel,
    Goodbye,
    HandoffAnswer,
    HandoffOffer,
    Hello,
    StartDecode,
    TaskFailed,
    TaskStarted,
    ToGateway,
    ToWorker,
    Welcome,
)
from services.domain.performance import PerformanceModel
from services.domain.placement import (
    Candidate,
    DecodeCandidate,
    DecodePlacement,
    DecodeQuery,
    Placement,
    PlacementQuery,
)
from services.domain.request import InferenceRequest, Sampling
from services.domain.slo import Margins, Slo
from services.domain.stream import Delta, FinishReason, StepFrame, TokenLogprob
from services.domain.task import Claim, PrefixMark, TaskRecord
from services.domain.worker import Phase, RoleOrder, WorkerLimits, WorkerLoad, WorkerStatus

IDS = st.text(min_size=1, max_size=12)
TEXTS = st.text(max_size=12)
COUNTS = st.integers(0, 2**32 - 1)
POSITIVE_COUNTS = st.integers(1, 2**32 - 1)
LARGE_COUNTS = st.integers(0, 2**64 - 1)
NUMBERS = st.floats(allow_nan=False)
POSITIVE_NUMBERS = st.floats(min_value=0, exclude_min=True, allow_nan=False)
PRIORITIES = st.integers(-(2**31), 2**31 - 1)
TOKENS = st.lists(COUNTS, max_size=8).map(tuple)
PROMPTS = st.lists(COUNTS, min_size=1, max_size=8).map(tuple)
HASHES = st.integers(0, 2**64 - 1).map(BlockHash)
HASH_RUNS = st.lists(HASHES, max_size=6).map(tuple)

SCOPES = st.builds(CacheScope, model=TEXTS, adapter=TEXTS, salt=TEXTS)
SAMPLINGS = st.builds(
    Sampling,
    max_tokens=POSITIVE_COUNTS,
    min_tokens=COUNTS,
    temperature=NUMBERS,
    top_p=NUMBERS,
    top_k=COUNTS,
    min_p=NUMBERS,
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    presence_penalty=NUMBERS,
    frequency_penalty=NUMBERS,
    repetition_penalty=NUMBERS,
    logit_bias=st.lists(st.tuples(COUNTS, NUMBERS), max_size=3).map(tuple),
    stop_token_ids=TOKENS,
    ignore_eos=st.booleans(),
    logprobs_count=st.none() | COUNTS,
    json_schema=st.none() | TEXTS,
)
REQUESTS = st.builds(
    InferenceRequest,
    request_id=IDS,
    scope=SCOPES,
    prompt_token_ids=PROMPTS,
    sampling=SAMPLINGS,
    priority=PRIORITIES,
)

_ATTRIBUTES: dict[object, st.SearchStrategy[object]] = {
    str: TEXTS,
    int: st.integers(0, 2**40),
    float: NUMBERS,
    float | None: st.none() | NUMBERS,
    str | None: st.none() | TEXTS,
}


def _leaf(leaf: type[ServingError]) -> st.SearchStrategy[ServingError]:
    return st.builds(leaf, **{f.name: _ATTRIBUTES[f.type] for f in fields(leaf)})


ERRORS = st.one_of([_leaf(leaf) for leaf in LEAVES])
LOGPROBS = st.builds(
    TokenLogprob,
    token_id=COUNTS,
    logprob=NUMBERS,
    top=st.lists(st.tuples(COUNTS, NUMBERS), max_size=3).map(tuple),
)


@st.composite
def _deltas(draw: st.DrawFn) -> Delta:
    finish = draw(st.none() | st.sampled_from(FinishReason))
    return Delta(
        request_id=RequestId(draw(IDS)),
        token_ids=draw(TOKENS),
        logprobs=tuple(draw(st.lists(LOGPROBS, max_size=2))),
        finish=finish,
        error=draw(ERRORS) if finish is FinishReason.ERROR else None,
        cached_tokens=draw(st.none() | COUNTS),
        local_prefill_s=draw(st.none() | NUMBERS),
    )


DELTAS = _deltas()
FRAMES = st.builds(StepFrame, step=LARGE_COUNTS, deltas=st.lists(DELTAS, max_size=4).map(tuple))

MARKS = st.builds(PrefixMark, depth_blocks=POSITIVE_COUNTS, block_hash=HASHES)
RECORDS = st.builds(
    TaskRecord,
    task_id=IDS,
    gateway_id=IDS,
    model=TEXTS,
    priority=PRIORITIES,
    prompt_tokens=COUNTS,
    marks=st.lists(MARKS, max_size=3).map(tuple),
    deadline_s=st.none() | NUMBERS,
    ttft_target_s=NUMBERS,
    decode_s=NUMBERS,
    slo=st.none() | st.builds(Slo, ttft_s=POSITIVE_NUMBERS, tpot_s=POSITIVE_NUMBERS),
    preferred_worker_id=st.none() | IDS,
    preferred_overlap_blocks=COUNTS,
)
CLAIMS = st.builds(Claim, worker_id=IDS, attempt=COUNTS)
TICKETS = st.builds(
    Ticket,
    ticket_id=IDS,
    request_id=IDS,
    prefill_worker_id=IDS,
    epoch=IDS,
    digest=TEXTS,
    prompt_tokens=COUNTS,
    block_size_tokens=POSITIVE_COUNTS,
    block_count=COUNTS,
    kv_bytes=LARGE_COUNTS,
    lease_s=NUMBERS,
    compatibility=TEXTS,
    connector=TEXTS,
    checks=st.lists(
        st.builds(BlockCheck, block_index=COUNTS, digests=st.lists(LARGE_COUNTS, max_size=2).map(tuple)),
        max_size=CHECKS_MAX,
    ).map(tuple),
)
HANDOFFS = st.builds(
    Handoff,
    task_id=IDS,
    request_id=IDS,
    worker_id=IDS,
    ticket=st.none() | TICKETS,
    first=DELTAS,
    first_is_exact=st.booleans(),
    waited_s=NUMBERS,
    prefill_s=NUMBERS,
)

ROLE_ORDERS = st.builds(
    RoleOrder,
    worker_id=IDS,
    epoch=IDS,
    phases=st.lists(st.sampled_from(Phase), min_size=1, max_size=2, unique=True).map(tuple),
)
STATUSES = st.builds(
    WorkerStatus,
    worker_id=IDS,
    suspects=st.lists(IDS, max_size=2).map(tuple),
    epoch=IDS,
    sequence=LARGE_COUNTS,
    model=TEXTS,
    address=TEXTS,
    limits=st.builds(
        WorkerLimits,
        block_size_tokens=POSITIVE_COUNTS,
        kv_blocks=POSITIVE_COUNTS,
        kv_bytes_per_token=LARGE_COUNTS,
        context_tokens_max=POSITIVE_COUNTS,
        sequences_max=POSITIVE_COUNTS,
        step_tokens_max=POSITIVE_COUNTS,
        compatibility=TEXTS,
    ),
    load=st.builds(
        WorkerLoad,
        running_count=COUNTS,
        running_context_tokens=LARGE_COUNTS,
        waiting_count=COUNTS,
        waiting_prefill_tokens=LARGE_COUNTS,
        kv_used_blocks=COUNTS,
        leased_blocks=COUNTS,
    ),
    performance=st.builds(
        PerformanceModel,
        **{
            f.name: POSITIVE_NUMBERS if f.name == "transfer_bytes_per_s" else NUMBERS
            for f in fields(PerformanceModel)
        },
    ),
    engine_kind=TEXTS,
    kv_sequence=LARGE_COUNTS,
)

STORED = st.builds(BlocksStored, parent=HASHES, hashes=HASH_RUNS)
BATCHES = st.builds(
    KvEventBatch,
    worker_id=IDS,
    epoch=IDS,
    sequence=LARGE_COUNTS,
    events=st.lists(
        STORED | st.builds(BlocksRemoved, hashes=HASH_RUNS) | st.just(BlocksCleared()), max_size=4
    ).map(tuple),
)
SNAPSHOTS = st.builds(
    KvSnapshot,
    worker_id=IDS,
    epoch=IDS,
    sequence=LARGE_COUNTS,
    stored=st.lists(STORED, max_size=5).map(tuple),
)

TO_WORKER: st.SearchStrategy[ToWorker] = (
    st.builds(Hello, gateway_id=IDS)
    | st.builds(
        StartDecode,
        request=REQUESTS,
        ticket=st.none() | TICKETS,
        emitted_token_ids=TOKENS,
        deadline_s=st.none() | NUMBERS,
    )
    | st.builds(Cancel, request_id=IDS)
    | st.builds(
        HandoffAnswer,
        task_id=IDS,
        request_id=IDS,
        ticket_id=st.none() | IDS,
        taken=st.booleans(),
        pulled=st.booleans(),
    )
)
TO_GATEWAY: st.SearchStrategy[ToGateway] = (
    st.builds(Welcome, worker_id=IDS, epoch=IDS)
    | st.builds(Accepted, request_id=IDS)
    | FRAMES
    | st.builds(HandoffOffer, handoff=HANDOFFS)
    | st.builds(TaskStarted, task_id=IDS, request_id=IDS, attempt=COUNTS, waited_s=NUMBERS)
    | st.builds(TaskFailed, task_id=IDS, request_id=IDS, final=DELTAS)
    | st.just(Goodbye())
)

_SHARES = st.floats(min_value=0, max_value=1, exclude_min=True)
MARGINS = st.builds(Margins, ttft_frac=_SHARES, tpot_frac=_SHARES)
PLACEMENT_QUERIES = st.builds(
    PlacementQuery,
    request_id=IDS,
    scope=SCOPES,
    prompt_tokens=POSITIVE_COUNTS,
    block_hashes=HASH_RUNS,
    output_tokens_max=POSITIVE_COUNTS,
    output_tokens_expected=st.none() | POSITIVE_COUNTS,
    priority=PRIORITIES,
    deadline_s=st.none() | NUMBERS,
    waited_s=NUMBERS,
    begun=st.booleans(),
    margins=MARGINS,
    avoid_worker_ids=st.lists(IDS, max_size=2).map(tuple),
)
DECODE_QUERIES = st.builds(
    DecodeQuery,
    request_id=IDS,
    scope=SCOPES,
    context_tokens=COUNTS,
    output_tokens_max=POSITIVE_COUNTS,
    output_tokens_expected=st.none() | POSITIVE_COUNTS,
    compatibility=TEXTS,
    avoid_worker_ids=st.lists(IDS, max_size=2).map(tuple),
    holder_id=st.none() | IDS,
    waited_s=st.none() | NUMBERS,
    task_id=st.none() | IDS,
)
_COSTS = dict.fromkeys(("wait_s", "prefill_s", "transfer_s", "ttft_s", "tpot_s", "harm_s", "cost_s"), NUMBERS)
CANDIDATES = st.builds(
    Candidate,
    worker_id=IDS,
    overlap_blocks=COUNTS,
    uncached_tokens=COUNTS,
    excluded=st.none() | TEXTS,
    **_COSTS,
)
PLACEMENTS = st.builds(
    Placement,
    request_id=IDS,
    worker_id=IDS,
    overlap_blocks=COUNTS,
    predicted_ttft_s=NUMBERS,
    predicted_tpot_s=NUMBERS,
    predicted_s=NUMBERS,
    reason=TEXTS,
    candidates=st.lists(CANDIDATES, max_size=3).map(tuple),
    margins=st.none() | MARGINS,
)
DECODE_CANDIDATES = st.builds(
    DecodeCandidate,
    worker_id=IDS,
    step_s=NUMBERS,
    kv_free_frac=NUMBERS,
    cost_s=NUMBERS,
    excluded=st.none() | TEXTS,
)
DECODE_PLACEMENTS = st.builds(
    DecodePlacement,
    request_id=IDS,
    worker_id=IDS,
    reason=TEXTS,
    candidates=st.lists(DECODE_CANDIDATES, max_size=3).map(tuple),
)
