"""One value of each kind with every field set, for tests that compare bytes or change one field."""

from services.domain.blocks import (
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    CacheScope,
    KvEventBatch,
    KvSnapshot,
)
from services.domain.errors import EngineFailed
from services.domain.handoff import Handoff, Ticket
from services.domain.ids import EngineEpoch, GatewayId, RequestId, TaskId, TicketId, WorkerId
from services.domain.performance import PerformanceModel
from services.domain.placement import (
    Candidate,
    DecodeCandidate,
    DecodePlacement,
    DecodeQuery,
    Path,
    PathPreference,
    Placement,
    PlacementQuery,
)
from services.domain.request import InferenceRequest, Sampling
from services.domain.slo import Slo
from services.domain.stream import Delta, FinishReason, StepFrame, TokenLogprob
from services.domain.task import Claim, PrefixMark, TaskRecord
from services.domain.worker import Lifecycle, Phase, RoleOrder, WorkerLimits, WorkerLoad, WorkerStatus

R, W, E = RequestId("r"), WorkerId("w"), EngineEpoch("e")

SCOPE = CacheScope(model="m", adapter="a", salt="s")
SAMPLING = Sampling(
    max_tokens=1,
    min_tokens=2,
    temperature=0.5,
    top_p=0.25,
    top_k=3,
    min_p=0.125,
    seed=-4,
    presence_penalty=1.5,
    frequency_penalty=2.5,
    repetition_penalty=3.5,
    logit_bias=((5, -1.0),),
    stop_token_ids=(6,),
    ignore_eos=True,
    logprobs_count=7,
    json_schema="{}",
)
REQUEST = InferenceRequest(
    request_id=R, scope=SCOPE, prompt_token_ids=(1, 2**32 - 1), sampling=SAMPLING, priority=-1
)
FAILED = EngineFailed(message="x", worker_id="w")
DELTA = Delta(
    request_id=R,
    token_ids=(1, 300),
    logprobs=(TokenLogprob(token_id=1, logprob=-0.5, top=((2, -1.5),)),),
    finish=FinishReason.ERROR,
    error=FAILED,
    cached_tokens=8,
    local_prefill_s=0.75,
)
FRAME = StepFrame(step=9, deltas=(DELTA, Delta(request_id=R, token_ids=(4,))))
TICKET = Ticket(
    ticket_id=TicketId("k"),
    request_id=R,
    prefill_worker_id=W,
    epoch=E,
    digest="d",
    prompt_tokens=1,
    block_size_tokens=2,
    block_count=3,
    kv_bytes=4,
    lease_s=5.5,
    compatibility="c",
    connector="n",
)
HANDOFF = Handoff(
    task_id=TaskId("t"),
    request_id=R,
    worker_id=W,
    ticket=TICKET,
    first=Delta(request_id=R, token_ids=(4,)),
    first_is_exact=True,
    waited_s=0.5,
    prefill_s=0.25,
)
RECORD = TaskRecord(
    task_id=TaskId("t"),
    gateway_id=GatewayId("g"),
    model="m",
    priority=-2,
    prompt_tokens=3,
    marks=(
        PrefixMark(depth_blocks=1, block_hash=BlockHash(2**63)),
        PrefixMark(depth_blocks=300, block_hash=BlockHash(7)),
    ),
    deadline_s=4.5,
    ttft_target_s=0.5,
    decode_s=1.5,
    slo=Slo(ttft_s=0.5, tpot_s=0.03),
    preferred_worker_id=W,
    preferred_overlap_blocks=5,
)
CLAIM = Claim(worker_id=W, attempt=2)
STATUS = WorkerStatus(
    worker_id=W,
    epoch=E,
    sequence=1,
    model="m",
    phases=(Phase.PREFILL, Phase.DECODE),
    lifecycle=Lifecycle.READY,
    address="h:1",
    limits=WorkerLimits(
        block_size_tokens=1,
        kv_blocks=2,
        kv_bytes_per_token=3,
        context_tokens_max=4,
        sequences_max=5,
        step_tokens_max=6,
        compatibility="c",
    ),
    load=WorkerLoad(
        running_count=1,
        running_context_tokens=2,
        waiting_count=3,
        waiting_prefill_tokens=4,
        kv_used_blocks=5,
        leased_blocks=6,
    ),
    performance=PerformanceModel(
        prefill_step_s=1.0,
        prefill_token_s=2.0,
        prefill_attention_s=3.0,
        decode_step_s=4.0,
        decode_sequence_s=5.0,
        decode_context_token_s=6.0,
        handoff_s=7.0,
        transfer_bytes_per_s=8.0,
    ),
    engine_kind="simulated",
    kv_sequence=2,
)
STORED = BlocksStored(parent=BlockHash(1), hashes=(BlockHash(2), BlockHash(2**64 - 1)))
BATCH = KvEventBatch(
    worker_id=W,
    epoch=E,
    sequence=3,
    events=(STORED, BlocksRemoved(hashes=(BlockHash(4),)), BlocksCleared()),
)
SNAPSHOT = KvSnapshot(worker_id=W, epoch=E, sequence=3, stored=(STORED,))
PLACEMENT_QUERY = PlacementQuery(
    request_id=R,
    scope=SCOPE,
    prompt_tokens=1,
    block_hashes=(BlockHash(2),),
    output_tokens_max=3,
    output_tokens_expected=2,
    priority=4,
    deadline_s=1.5,
    waited_s=0.25,
    begun=True,
    preference=PathPreference.REMOTE,
    avoid_worker_ids=(W,),
)
DECODE_QUERY = DecodeQuery(
    request_id=R,
    scope=SCOPE,
    context_tokens=1,
    output_tokens_max=2,
    compatibility="c",
    avoid_worker_ids=(W,),
    holder_id=W,
    waited_s=0.5,
    task_id=RECORD.task_id,
)
PLACEMENT = Placement(
    request_id=R,
    path=Path.REMOTE,
    worker_id=W,
    overlap_blocks=1,
    predicted_ttft_s=0.5,
    predicted_tpot_s=0.25,
    predicted_s=2.5,
    reason="why",
    candidates=(
        Candidate(
            path=Path.LOCAL,
            worker_id=W,
            overlap_blocks=1,
            uncached_tokens=2,
            wait_s=0.5,
            prefill_s=1.5,
            transfer_s=2.5,
            ttft_s=3.5,
            tpot_s=0.125,
            harm_s=4.5,
            cost_s=5.5,
            excluded="no",
        ),
    ),
)
DECODE_PLACEMENT = DecodePlacement(
    request_id=R,
    worker_id=W,
    reason="why",
    candidates=(DecodeCandidate(worker_id=W, step_s=0.5, kv_free_frac=0.25, cost_s=1.5, excluded="no"),),
)
ROLE_ORDER = RoleOrder(worker_id=W, epoch=E, phases=(Phase.DECODE, Phase.PREFILL))
