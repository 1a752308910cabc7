"""Same inputs, same decision: no order of arrival, no process and no repetition changes it."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from services.domain.blocks import KvEventBatch
from services.domain.ids import EngineEpoch
from services.domain.performance import PrefillChunk
from services.domain.placement import PlacementQuery
from services.domain.worker import Phase, WorkerLoad, WorkerStatus
from services.router.prices import price_prompt
from services.router.router import Router
from services.router.settings import RouterSettings
from tests.router.scenery import BOTH, DECODE, LIMITS, PREFILL, SPEED, decode_query, query, worker
from tests.router.test_index_equals_its_model import stored

LOADS = st.builds(
    WorkerLoad,
    running_count=st.integers(0, 40),
    running_context_tokens=st.integers(0, 50_000),
    waiting_count=st.integers(0, 4),
    waiting_prefill_tokens=st.integers(0, 20_000),
    kv_used_blocks=st.integers(0, 4096),
)
PHASES = st.sampled_from((PREFILL, DECODE, BOTH))


def fold(statuses: list[WorkerStatus], depths: dict[str, int], asked: PlacementQuery) -> Router:
    """A router that heard of the workers in this order."""
    router = Router(RouterSettings())
    for status in statuses:
        router.fold_status(status, 0.0)
    for status in statuses:
        event = stored(asked.block_hashes[: depths[status.worker_id]])
        router.fold_kv(
            KvEventBatch(worker_id=status.worker_id, epoch=EngineEpoch("e1"), sequence=1, events=(event,))
        )
    return router


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.tuples(PHASES, LOADS | st.just(WorkerLoad()), st.integers(0, 80)), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
    st.text(max_size=8),
)
def test_the_order_of_arrival_changes_nothing(
    fleet: list[tuple[tuple[Phase, ...], WorkerLoad, int]], order: random.Random, name: str
) -> None:
    """Whatever order statuses and events arrive in, whole records are equal, and each is consistent."""
    statuses = [worker(f"w{i}", phases, load=load) for i, (phases, load, _) in enumerate(fleet)]
    depths = {f"w{i}": depth for i, (_, _, depth) in enumerate(fleet)}
    asked, handed = query(name), decode_query(name)
    first = fold(statuses, depths, asked)
    shuffled = statuses.copy()
    order.shuffle(shuffled)
    second = fold(shuffled, depths, asked)
    for _ in range(3):
        placement = first.place(asked, 0.0)
        assert placement == second.place(asked, 0.0)
        assert first.place_decode(handed, 0.0) == second.place_decode(handed, 0.0)
        if isinstance(placement, Exception):
            continue
        able = [c for c in placement.candidates if c.excluded is None]
        assert able == sorted(able, key=lambda c: c.cost_s)
        assert (placement.path, placement.worker_id) == (able[0].path, able[0].worker_id)
        assert placement.predicted_ttft_s == able[0].ttft_s > 0


def test_equal_workers_share_requests_evenly() -> None:
    """Ties are broken by a hash: over many requests each of several equal workers wins its share."""
    counts = dict.fromkeys((f"w{i}" for i in range(4)), 0)
    for i in range(400):
        router = Router(RouterSettings())
        for name in counts:
            router.fold_status(worker(name, DECODE), 0.0)
        outcome = router.place(query(f"request-{i}"), 0.0)
        assert not isinstance(outcome, Exception)
        counts[outcome.worker_id] += 1
    assert all(60 < count < 140 for count in counts.values())


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 40_000),
    st.integers(0, 40_000),
    st.sampled_from((97, 512, 2048, 8192)),
    st.floats(0, 0.2),
    st.floats(0.001, 0.5),
)
def test_the_stall_in_closed_form_equals_the_sum_over_steps(
    prompt_tokens: int, cached: int, step_tokens_max: int, decode_step_s: float, tpot_s: float
) -> None:
    """What a running request loses is the sum of what each step takes beyond the target."""
    price = price_prompt(
        SPEED, prompt_tokens=prompt_tokens, cached_tokens=cached, step_tokens_max=step_tokens_max
    )
    done = min(cached, prompt_tokens - 1)
    lost_s = total_s = 0.0
    steps = 0
    while done < prompt_tokens:
        new = min(step_tokens_max, prompt_tokens - done)
        step_s = SPEED.prefill_s((PrefillChunk(new_tokens=new, context_tokens=done),))
        lost_s += max(0.0, step_s - max(0.0, tpot_s - decode_step_s))
        total_s, steps, done = total_s + step_s, steps + 1, done + new
    assert price.step_count == steps
    assert abs(price.total_s - total_s) <= 1e-6 * max(1.0, total_s)
    assert abs(price.stall_s(decode_step_s=decode_step_s, tpot_s=tpot_s) - lost_s) <= 1e-6 * max(1.0, lost_s)


def test_the_record_of_a_large_fleet_is_bounded() -> None:
    """Only the best candidates are kept, and the chosen one is always the first."""
    router = Router(RouterSettings(candidates_kept=5))
    for i in range(50):
        load = WorkerLoad(waiting_count=1, waiting_prefill_tokens=100 * ((i * 7) % 50))
        router.fold_status(worker(f"w{i}", DECODE, load=load, limits=LIMITS), 0.0)
    outcome = router.place(query(), 0.0)
    assert not isinstance(outcome, Exception)
    assert len(outcome.candidates) == 5
    assert outcome.candidates[0].worker_id == outcome.worker_id == "w0"
