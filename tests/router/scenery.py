"""Workers and queries for router tests: everything has a default, a test names what it is about."""

from services.domain.blocks import BlockHash, BlocksStored, CacheScope, KvEventBatch
from services.domain.ids import EngineEpoch, RequestId, WorkerId
from services.domain.performance import PerformanceModel
from services.domain.placement import DecodeQuery, PathPreference, Placement, PlacementQuery
from services.domain.worker import Lifecycle, Phase, WorkerLimits, WorkerLoad, WorkerStatus
from services.router.router import Router
from services.router.settings import RouterSettings

MODEL = "tiny"
SCOPE = CacheScope(model=MODEL)
PREFILL = (Phase.PREFILL,)
DECODE = (Phase.DECODE,)
BOTH = (Phase.PREFILL, Phase.DECODE)

SPEED = PerformanceModel(
    prefill_step_s=10e-3,
    prefill_token_s=0.02e-3,
    prefill_attention_s=1e-9,
    decode_step_s=5e-3,
    decode_sequence_s=0.05e-3,
    decode_context_token_s=20e-9,
    handoff_s=5e-3,
    transfer_bytes_per_s=50e9,
)

LIMITS = WorkerLimits(
    block_size_tokens=16,
    kv_blocks=4096,
    kv_bytes_per_token=131_072,
    context_tokens_max=32_768,
    sequences_max=256,
    step_tokens_max=2048,
    compatibility="sim/1/16",
)


def worker(
    name: str,
    phases: tuple[Phase, ...],
    *,
    load: WorkerLoad | None = None,
    limits: WorkerLimits = LIMITS,
    performance: PerformanceModel = SPEED,
    model: str = MODEL,
    lifecycle: Lifecycle = Lifecycle.READY,
    epoch: str = "e1",
    sequence: int = 1,
    kv_sequence: int = 0,
) -> WorkerStatus:
    """A status of a worker, idle and ready unless said otherwise."""
    return WorkerStatus(
        worker_id=WorkerId(name),
        epoch=EngineEpoch(epoch),
        sequence=sequence,
        model=model,
        phases=phases,
        lifecycle=lifecycle,
        address="127.0.0.1:1",
        limits=limits,
        load=load or WorkerLoad(),
        performance=performance,
        engine_kind="simulated",
        kv_sequence=kv_sequence,
    )


def query(
    name: str = "r1",
    *,
    prompt_tokens: int = 1280,
    hashes: tuple[BlockHash, ...] | None = None,
    output_tokens_max: int = 64,
    preference: PathPreference = PathPreference.AUTO,
    avoid: tuple[str, ...] = (),
    model: str = MODEL,
) -> PlacementQuery:
    """A prompt whose block hashes are its own unless given."""
    own = tuple(BlockHash((hash_of(name) + i) & 0xFFFF_FFFF) for i in range(prompt_tokens // 16))
    return PlacementQuery(
        request_id=RequestId(name),
        scope=CacheScope(model=model),
        prompt_tokens=prompt_tokens,
        block_hashes=own if hashes is None else hashes,
        output_tokens_max=output_tokens_max,
        preference=preference,
        avoid_worker_ids=tuple(WorkerId(w) for w in avoid),
    )


def decode_query(
    name: str = "r1",
    *,
    context_tokens: int = 1280,
    output_tokens_max: int = 64,
    compatibility: str = LIMITS.compatibility,
    avoid: tuple[str, ...] = (),
    holder: str | None = None,
) -> DecodeQuery:
    """A handed-over prompt."""
    return DecodeQuery(
        request_id=RequestId(name),
        scope=SCOPE,
        context_tokens=context_tokens,
        output_tokens_max=output_tokens_max,
        compatibility=compatibility,
        avoid_worker_ids=tuple(WorkerId(w) for w in avoid),
        holder_id=None if holder is None else WorkerId(holder),
    )


def holding(router: Router, name: str, asked: PlacementQuery, blocks: int) -> None:
    """Let a worker hold the leading blocks of a prompt."""
    stored = BlocksStored(parent=SCOPE.root(), hashes=asked.block_hashes[:blocks])
    router.fold_kv(
        KvEventBatch(worker_id=WorkerId(name), epoch=EngineEpoch("e1"), sequence=1, events=(stored,))
    )


def router_of(*statuses: WorkerStatus) -> Router:
    """A router that has just heard of these workers."""
    router = Router(RouterSettings())
    for status in statuses:
        router.fold_status(status, 0.0)
    return router


def placed(router: Router, asked: PlacementQuery) -> Placement:
    """Place and insist that it worked."""
    outcome = router.place(asked, 0.0)
    assert isinstance(outcome, Placement), outcome
    return outcome


def hash_of(name: str) -> int:
    """A number of a name, the same in every run."""
    return int.from_bytes(name.encode()[-4:].rjust(4, b"0"), "little") * 1_000_003
