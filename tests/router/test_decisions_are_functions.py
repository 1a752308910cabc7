"""Same inputs, same decision: no order of arrival, no process and no repetition changes it."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.domain.blocks import KvEventBatch
from services.domain.ids import EngineEpoch, WorkerId
from services.domain.placement import PlacementQuery
from services.domain.worker import Phase, WorkerLoad, WorkerStatus
from services.router.router import Router
from services.router.settings import RouterSettings
from tests.router.scenery import BOTH, DECODE, LIMITS, PREFILL, decode_query, query, worker
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


@pytest.mark.parametrize("avoided", [(), ("w3",)])
def test_a_record_tells_what_was_known_at_the_decision(avoided: tuple[str, ...]) -> None:
    """Whatever becomes of the fleet, candidates and reason read later are those of the decision."""
    rng = random.Random(3)
    router = Router(RouterSettings())
    for i in range(12):
        phases = (PREFILL, DECODE, BOTH)[i % 3]
        router.fold_status(worker(f"w{i}", phases, load=WorkerLoad(waiting_prefill_tokens=100 * i)), 0.0)
    placements = [router.place(query(f"r{i}", avoid=avoided), 0.0) for i in range(5)]
    told = [repr(placement) for placement in placements]
    for i in range(40):
        name, phases = f"w{rng.randrange(20)}", rng.choice((PREFILL, DECODE, BOTH))
        load = WorkerLoad(running_count=rng.randrange(200), waiting_prefill_tokens=rng.randrange(100_000))
        router.fold_status(worker(name, phases, load=load, sequence=i + 2), 0.0)
        router.fold_left(WorkerId(f"w{rng.randrange(20)}"))
        assert [repr(placement) for placement in placements] == told


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
