"""All workers at once cost what each costs by itself, whoever else is there and wherever it stands."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.domain.ids import WorkerId
from services.domain.performance import PRESETS, PerformanceModel, PrefillChunk
from services.domain.placement import Placement, PlacementQuery
from services.domain.worker import Lifecycle, Phase, WorkerLoad, WorkerStatus
from services.router.fleet.filters import Need
from services.router.fleet.fleet_view import FleetView
from services.router.fleet.lineup import Lineup
from services.router.fleet.prices import room_wait_s
from services.router.placement import place
from services.router.pricing.prompt_prices import PromptPrices
from services.router.pricing.queue_load import QueueLoad
from services.router.pricing.sifting import sift, sift_lineup
from services.router.pricing.waits import room_waits_s
from services.router.settings import RouterSettings
from tests.router.scenery import BOTH, DECODE, LIMITS, MODEL, PREFILL, SPEED, query, worker
from tests.router.test_decisions_are_functions import LOADS

BENT = replace(SPEED, prefill_square_s=4e-10, decode_context_square_s=-1e-12, decode_least_s=6e-3)
MODELS = st.sampled_from((SPEED, BENT, PRESETS["h200-llama-3.1-8b-fp8"], PRESETS["dynamo-mocker"]))
BUDGETS = st.sampled_from((97, 512, 2048, 8192))
STATUSES = st.builds(
    lambda name, phases, load, model, budget, lifecycle: worker(
        f"w{name}",
        phases,
        load=load,
        performance=model,
        limits=replace(LIMITS, step_tokens_max=budget),
        lifecycle=lifecycle,
    ),
    st.integers(0, 30),
    st.sampled_from((PREFILL, DECODE, BOTH)),
    LOADS | st.just(WorkerLoad()),
    MODELS,
    BUDGETS,
    st.sampled_from((Lifecycle.READY, Lifecycle.READY, Lifecycle.READY, Lifecycle.DRAINING)),
)
QUERIES = st.builds(
    lambda name, tokens, output, expected, avoid: replace(
        query(name, prompt_tokens=tokens, hashes=(), output_tokens_max=output, avoid=avoid),
        output_tokens_expected=expected and min(expected, output),
    ),
    st.text(max_size=4),
    st.sampled_from((1, 40, 1280, 8000, 31_000)),
    st.sampled_from((1, 64, 2000)),
    st.sampled_from((None, 1, 60)),
    st.sampled_from(((), (), ("w1",), ("w1", "w2"))),
)
KEEP_ALL = RouterSettings(candidates_kept=1000)


def lineup_of(*models: tuple[PerformanceModel, int]) -> Lineup:
    """Workers that prefill, one of each model and budget, in this order."""
    fleet = FleetView(RouterSettings())
    for i, (model, budget) in enumerate(models):
        limits = replace(LIMITS, step_tokens_max=budget)
        fleet.fold_status(worker(f"w{i}", PREFILL, performance=model, limits=limits), 0.0)
    return fleet.lineup(MODEL)


def decide(
    fleet: FleetView,
    asked: PlacementQuery,
    overlaps: dict[WorkerId, int] | None = None,
    kept: RouterSettings = KEEP_ALL,
) -> object:
    """Place without an index and a queue."""
    return place(asked, fleet=fleet, overlaps=overlaps or {}, queue=QueueLoad(), settings=kept, now_s=0.0)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(MODELS, BUDGETS, st.integers(0, 40_000), st.floats(0, 0.2)), min_size=1, max_size=4),
    st.integers(1, 40_000),
    st.floats(0.001, 0.5),
)
def test_a_prompt_costs_the_sum_over_its_steps(
    cases: list[tuple[PerformanceModel, int, int, float]], prompt_tokens: int, tpot_s: float
) -> None:
    """At each worker: the time of all steps, and what a running request loses in those that are late."""
    lineup = lineup_of(*((model, budget) for model, budget, _, _ in cases))
    cached = np.array([float(min(held, prompt_tokens - 1)) for _, _, held, _ in cases])
    prices = PromptPrices(
        lineup.sight().all.traits, prompt_tokens=prompt_tokens, cached_tokens=cached, bends=True
    )
    stalls_s = prices.stall_s(
        decode_step_s=np.array([step_s for _, _, _, step_s in cases]),
        tpot_s=tpot_s,
    )
    for i, (model, budget, _, decode_step_s) in enumerate(cases):
        done, lost_s, total_s, steps = int(cached[i]), 0.0, 0.0, 0
        while done < prompt_tokens:
            new = min(budget, prompt_tokens - done)
            step_s = model.prefill_s((PrefillChunk(new_tokens=new, context_tokens=done),))
            lost_s += max(0.0, step_s - max(0.0, tpot_s - decode_step_s))
            total_s, steps, done = total_s + step_s, steps + 1, done + new
        assert np.broadcast_to(prices.step_count, len(cases))[i] == steps
        assert np.broadcast_to(prices.total_s, len(cases))[i] == pytest.approx(total_s, rel=1e-9)
        assert stalls_s[i] == pytest.approx(lost_s, rel=1e-6, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(st.lists(STATUSES, max_size=12), st.data(), QUERIES)
def test_nothing_of_the_past_is_left(
    past: list[WorkerStatus], data: st.DataObject, asked: PlacementQuery
) -> None:
    """A fleet through which workers came, changed and went decides like one that met only the last ones."""
    fleet, last = FleetView(KEEP_ALL), dict[WorkerId, WorkerStatus]()
    for i, status in enumerate(past):
        fleet.fold_status(replace(status, sequence=i + 2), 0.0)
        last[status.worker_id] = replace(status, sequence=i + 2)
        if data.draw(st.booleans()):
            fleet.fold_left(gone := data.draw(st.sampled_from(sorted(last))))
            del last[gone]
    fresh = FleetView(KEEP_ALL)
    for worker_id in sorted(last):
        fresh.fold_status(last[worker_id], 0.0)
    shares = {v.worker_id: v.prefill_share for v in fleet.workers()}
    if shares == {v.worker_id: v.prefill_share for v in fresh.workers()}:
        first, second = decide(fleet, asked), decide(fresh, asked)
        assert repr(first) == repr(second)
    lineup = fleet.lineup(MODEL)
    assert len(lineup) == len(last)
    for place_at, worker_id in enumerate(lineup.sight().worker_ids):
        view = fleet.get(worker_id)
        assert view is lineup.view(place_at)
        loads = lineup.sight().all.loads
        assert view is not None
        assert (loads.running_count[place_at], loads.free_blocks[place_at], loads.step_s[place_at]) == (
            view.running_count,
            view.free_blocks,
            view.step_s,
        )


@settings(max_examples=100, deadline=None)
@given(
    st.lists(STATUSES, min_size=2, max_size=12, unique_by=lambda s: s.worker_id), QUERIES, st.integers(0, 80)
)
def test_workers_are_priced_by_themselves(
    statuses: list[WorkerStatus], asked: PlacementQuery, held: int
) -> None:
    """What it costs that a decode worker does all is the same to the last bit without any other worker."""
    pool = [status for status in statuses if status.phases == DECODE]
    fleet = FleetView(KEEP_ALL)
    for status in pool:
        fleet.fold_status(status, 0.0)
    overlaps = {status.worker_id: held for status in pool}
    together = decide(fleet, asked, overlaps)
    if not isinstance(together, Placement):
        return
    for candidate in together.candidates:
        alone = FleetView(KEEP_ALL)
        alone.fold_status(next(s for s in pool if s.worker_id == candidate.worker_id), 0.0)
        other = decide(alone, asked, overlaps)
        assert not isinstance(other, Placement) or other.candidates[0] == candidate


@pytest.mark.parametrize("count", [3, 40, 300])
@pytest.mark.parametrize("idle", [True, False])
def test_the_record_holds_the_very_best(count: int, idle: bool) -> None:
    """A short record begins like one of everybody, also where many cost the same."""
    rng = random.Random(count)
    fleet = FleetView(KEEP_ALL)
    for i in range(count):
        load = WorkerLoad() if idle or i % 3 else WorkerLoad(running_count=rng.randrange(9), waiting_count=1)
        fleet.fold_status(worker(f"w{i}", (PREFILL, DECODE, BOTH)[i % 3], load=load), 0.0)
    for i in range(40):
        asked = query(f"r{i}", hashes=())
        everybody = decide(fleet, asked)
        assert isinstance(everybody, Placement)
        for kept in (1, 2, 16):
            few = decide(fleet, asked, kept=RouterSettings(candidates_kept=kept))
            assert isinstance(few, Placement)
            assert few.candidates == everybody.candidates[:kept]
            assert (few.worker_id, few.reason) == (everybody.worker_id, everybody.reason)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(STATUSES, st.floats(0, 5)), max_size=10, unique_by=lambda s: s[0].worker_id),
    st.lists(st.integers(0, 30).map(lambda i: WorkerId(f"w{i}")), max_size=3),
    st.sampled_from((1, 40_000, 100_000)),
)
def test_columns_sift_like_the_filters(
    fleet_of: list[tuple[WorkerStatus, float]], avoid: list[WorkerId], tokens: int
) -> None:
    """Who may be chosen, and what is said of the others, is what the filters say one by one."""
    fleet = FleetView(RouterSettings())
    for status, seen_at_s in fleet_of:
        fleet.fold_status(status, seen_at_s)
    lineup = fleet.lineup(MODEL)
    able = sift_lineup(
        lineup,
        decode_tokens=tokens,
        prefill_tokens=tokens,
        avoid=avoid,
        now_s=5.0,
        stale_after_s=2.0,
        queue_reachable=True,
    )
    need = Need(tokens=tokens, avoid=frozenset(avoid), now_s=5.0, stale_after_s=2.0)
    told = {(path.value, view.worker_id, why) for path, view, why in able.closed(None).reasons()}
    expected = {
        (path, view.worker_id, why)
        for path, phase in (("local", Phase.DECODE), ("remote", Phase.PREFILL))
        for view, why in sift(fleet.serving(MODEL, phase), need)[1]
    }
    assert told == expected
    decoders = sift(fleet.serving(MODEL, Phase.DECODE), need)[0]
    assert able.decoder_count == len(decoders)


@given(STATUSES, st.integers(-5, 500), st.integers(-5, 300), st.integers(1, 2000))
def test_a_wait_for_room_in_columns_is_that_of_one_worker(
    status: WorkerStatus, blocks: int, sequences: int, output_tokens: int
) -> None:
    """Both formulas say the same to the last bit."""
    fleet = FleetView(RouterSettings())
    fleet.fold_status(status, 0.0)
    view = fleet.workers()[0]
    columns = room_waits_s(
        fleet.lineup(MODEL).sight().all,
        shortage_blocks=np.array([float(blocks)]),
        shortage_sequences=np.array([float(sequences)]),
        output_tokens=output_tokens,
        where=np.array([blocks > 0 or sequences > 0]),
    )
    assert columns[0] == room_wait_s(
        status.performance,
        shortage_blocks=blocks,
        shortage_sequences=sequences,
        used_blocks=view.used_blocks,
        running_count=view.running_count,
        step_s=view.step_s,
        output_tokens=output_tokens,
    )
