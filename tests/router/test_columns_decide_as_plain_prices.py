"""The decision made in columns is the one that plain, exhaustive pricing makes, with the same numbers."""

import random
from dataclasses import replace

import pytest

from services.domain.errors import Rejected
from services.domain.ids import WorkerId
from services.domain.performance import PRESETS
from services.domain.placement import Candidate, Path, PathPreference, Placement, PlacementQuery
from services.domain.slo import Margins
from services.domain.worker import Phase, WorkerLoad, WorkerStatus
from services.router.fleet.fleet_view import FleetView
from services.router.placement import BIDDEN, place
from services.router.pricing.bounds import Bounds
from services.router.pricing.queue_load import QueueLoad
from services.router.settings import RouterSettings
from tests.router.plain_pricing import PlainPricing, PlainWay
from tests.router.scenery import BOTH, DECODE, LIMITS, PREFILL, SPEED, query, worker

BENT = replace(SPEED, prefill_square_s=4e-10, decode_context_square_s=-1e-12, decode_least_s=6e-3)
MODELS = (SPEED, BENT, PRESETS["h200-llama-3.1-8b-fp8"], PRESETS["dynamo-mocker"])
SPARED = (BIDDEN.why, "was asked for")
"""What is said of good ways of the other path."""
FLEETS = 40
"""Fleets per size and kind; each is asked four times."""


def load_in(state: str, rng: random.Random) -> WorkerLoad:
    """What a worker has to do."""
    if state == "idle":
        return WorkerLoad()
    is_full = state == "full"
    return WorkerLoad(
        running_count=rng.choice((0, rng.randrange(40), rng.randrange(260))),
        running_context_tokens=rng.randrange(50_000),
        waiting_count=rng.randrange(3),
        waiting_prefill_tokens=rng.choice((100_000, 2_000_000) if is_full else (0, 3000, 40_000)),
        kv_used_blocks=LIMITS.kv_blocks if is_full else rng.randrange(LIMITS.kv_blocks),
    )


def settings_of(rng: random.Random) -> RouterSettings:
    """Choose targets, so that steps of prompts keep them here and miss them there."""
    return RouterSettings(
        candidates_kept=1000,
        early_rejection=rng.random() < 0.9,
        tpot_target_s=rng.choice((0.03, 0.005, 0.1, 1.0)),
        ttft_target_s=rng.choice((0.5, 0.1, 5.0)),
    )


def statuses_of(rng: random.Random, count: int, mixed: bool) -> list[WorkerStatus]:
    """A fleet of equal or of different workers."""
    model, kind, state = rng.choice(MODELS), rng.randrange(3), rng.choice(("idle", "loaded", "full", "any"))
    statuses = []
    for i in range(count):
        limits = LIMITS
        if mixed:
            limits = replace(
                LIMITS,
                step_tokens_max=rng.choice((97, 512, 2048, 8192)),
                block_size_tokens=rng.choice((16, 32)),
                sequences_max=rng.choice((8, 256)),
                compatibility=rng.choice(("a", "a", "b")),
            )
        own_state = rng.choice(("idle", "loaded", "full")) if state == "any" else state
        statuses.append(
            worker(
                f"w{i}",
                ((PREFILL, DECODE)[i % 2], BOTH, rng.choice((PREFILL, DECODE, BOTH)))[kind],
                load=load_in(own_state, rng),
                limits=limits,
                performance=rng.choice(MODELS) if mixed else model,
            )
        )
    return statuses


def query_of(rng: random.Random, name: str) -> PlacementQuery:
    """A prompt, with or without a deadline, a known length, a wish."""
    output = rng.choice((1, 64, 2000))
    asked = query(name, prompt_tokens=rng.choice((1, 40, 1280, 8000, 29_000)), hashes=())
    return replace(
        asked,
        output_tokens_max=output,
        output_tokens_expected=rng.choice((None, 1, min(60, output), output)),
        priority=rng.choice((0, 0, 5)),
        deadline_s=rng.choice((None, None, 0.1, 1.0, 60.0)),
        waited_s=rng.choice((0.0, 0.0, 1.0)),
        begun=rng.random() < 0.1,
        margins=rng.choice((Margins(), Margins(ttft_frac=0.5, tpot_frac=0.5))),
        preference=rng.choice((*[PathPreference.AUTO] * 3, *PathPreference)),
        avoid_worker_ids=(WorkerId("w1"),) if rng.random() < 0.1 else (),
    )


def queue_of(rng: random.Random, count: int) -> QueueLoad:
    """An empty queue, or one in which some prompts wait for one worker."""
    if rng.random() < 0.5:
        return QueueLoad()
    tokens = rng.randrange(200_000)
    bound = {WorkerId(f"w{rng.randrange(count)}"): tokens / 4} if rng.random() < 0.5 else {}
    return QueueLoad(waiting_tokens=tokens, waiting_count=rng.randrange(1, 40), bound_tokens=bound)


def expected(plain: PlainPricing, fleet: FleetView) -> tuple[PlainWay | None, list[PlainWay]]:
    """The way to take, and all that would do, best first."""
    asked, settings = plain.query, plain.settings
    ways = plain.ways()
    judged = settings.early_rejection and not asked.begun
    good = [way for way in ways if not judged or plain.is_good(way)]
    if not good:
        return None, good
    by_path = {path: [way for way in good if way.path is path] for path in Path}
    wanted = {PathPreference.LOCAL: Path.LOCAL, PathPreference.REMOTE: Path.REMOTE}.get(asked.preference)
    best = (by_path[wanted] if wanted else good) or good
    view = fleet.get(best[0].worker_id)
    assert view is not None
    is_soft = best[0].path is Path.LOCAL and Phase.PREFILL in view.status.phases
    if wanted is None and not asked.begun and is_soft and by_path[Path.REMOTE]:
        best = by_path[Path.REMOTE]  # soft-roled workers bid
    return best[0], good


def assert_equal(told: Candidate, way: PlainWay) -> None:
    """A candidate of the record has the numbers of the plain way."""
    for name in ("wait_s", "prefill_s", "transfer_s", "ttft_s", "tpot_s", "harm_s", "cost_s"):
        assert getattr(told, name) == pytest.approx(getattr(way, name), rel=1e-9, abs=1e-10), (name, told)


@pytest.mark.parametrize("mixed", [False, True], ids=["equal workers", "different workers"])
@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_the_decision_is_that_of_pricing_each_worker_by_itself(count: int, mixed: bool) -> None:
    """Who is chosen, who is refused, and every number of every candidate."""
    rng = random.Random(f"{count} {mixed}")
    taken = refused = 0
    for turn in range(FLEETS):
        settings = settings_of(rng)
        fleet = FleetView(settings)
        for status in statuses_of(rng, count, mixed):
            fleet.fold_status(status, 0.0)
        for again in range(4):
            asked, queue = query_of(rng, f"r{turn}-{again}"), queue_of(rng, count)
            names = rng.sample(range(count), rng.choice((0, 1, count)))
            overlaps = {WorkerId(f"w{i}"): rng.randrange(asked.prompt_tokens // 32 + 1) for i in names}
            overload = rng.random() < 0.3
            outcome = place(
                asked,
                fleet=fleet,
                overlaps=overlaps,
                queue=queue,
                settings=settings,
                now_s=0.0,
                overload=overload,
            )
            plain = PlainPricing(
                query=asked,
                fleet=fleet,
                overlaps=overlaps,
                queue=queue,
                settings=settings,
                bounds=Bounds.of(asked, settings, overload=overload),
            )
            best, good = expected(plain, fleet)
            if best is None:
                assert isinstance(outcome, Rejected)
                refused += 1
                continue
            assert isinstance(outcome, Placement), outcome
            taken += 1
            ways = {(way.path, way.worker_id): way for way in plain.ways()}
            chosen = ways[outcome.path, outcome.worker_id]
            assert chosen.path is best.path
            assert chosen.cost_s == pytest.approx(best.cost_s, rel=1e-9)
            told = [c for c in outcome.candidates if c.excluded is None or c.excluded.endswith(SPARED)]
            assert {(c.path, c.worker_id) for c in told} == {(way.path, way.worker_id) for way in good}
            assert (told[0].path, told[0].worker_id) == (outcome.path, outcome.worker_id)
            for candidate in told:
                assert_equal(candidate, ways[candidate.path, candidate.worker_id])
    assert taken > 20
    assert refused > 10
