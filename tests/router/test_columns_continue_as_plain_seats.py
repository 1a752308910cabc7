"""Who continues a handed-over prompt is who plain pricing finds, worker by worker, with the same numbers."""

import random
from dataclasses import replace

import pytest

from services.domain.errors import NotReady, Rejected, Saturated
from services.domain.ids import WorkerId
from services.domain.placement import DecodePlacement, DecodeQuery
from services.domain.worker import Lifecycle
from services.router.decode_placement import place_decode
from services.router.fleet.fleet_view import FleetView
from services.router.settings import RouterSettings
from tests.router.plain_decode import PlainSeat, decide
from tests.router.scenery import DECODE, LIMITS, decode_query
from tests.router.test_columns_decide_as_plain_prices import statuses_of

FLEETS = 60
"""Fleets per size and kind; each is asked four times."""
NOW_S = 5.0


def settings_of(rng: random.Random) -> RouterSettings:
    """Choose limits, so that some waits are too long."""
    return RouterSettings(
        candidates_kept=1000,
        tpot_target_s=rng.choice((0.03, 0.005)),
        ttft_target_s=rng.choice((0.01, 0.5, 50.0)),
    )


def fleet_of(rng: random.Random, settings: RouterSettings, count: int, mixed: bool) -> FleetView:
    """Workers some of which drain or are silent."""
    fleet = FleetView(settings)
    for status in statuses_of(rng, count, mixed):
        lifecycle = rng.choice((*[Lifecycle.READY] * 7, Lifecycle.DRAINING))
        fleet.fold_status(replace(status, lifecycle=lifecycle), rng.choice((NOW_S, NOW_S, NOW_S, 0.0)))
    return fleet


def query_of(rng: random.Random, name: str, count: int) -> DecodeQuery:
    """A handed-over prompt, with or without a known length."""
    output = rng.choice((1, 64, 2000))
    asked = decode_query(
        name,
        context_tokens=rng.choice((1, 40, 1280, 8000, 29_000)),
        output_tokens_max=output,
        compatibility=rng.choice((LIMITS.compatibility, "a", "b")),
        avoid=("w1",) if rng.random() < 0.1 else (),
        holder=rng.choice((None, f"w{rng.randrange(count)}")),
    )
    return replace(asked, output_tokens_expected=rng.choice((None, 1, output)))


def numbers(seats: list[PlainSeat]) -> list[tuple[WorkerId, float, float, float]]:
    """What a record tells of them."""
    return [(seat.worker_id, seat.step_s, seat.kv_free_frac, seat.cost_s) for seat in seats]


@pytest.mark.parametrize("mixed", [False, True], ids=["equal workers", "different workers"])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_who_continues_is_found_as_by_looking_at_each(count: int, mixed: bool) -> None:
    """Who is chosen, who is spared, late or excluded, in which order, and every number to the last bit."""
    rng = random.Random(f"{count} {mixed}")
    taken = spared = refused = 0
    for turn in range(FLEETS):
        settings = settings_of(rng)
        fleet = fleet_of(rng, settings, count, mixed)
        for again in range(4):
            asked = query_of(rng, f"r{turn}-{again}", count)
            limit_s = rng.choice((None, 0.004, 0.01, 0.025))
            plain = decide(asked, fleet, settings, now_s=NOW_S, step_limit_s=limit_s)
            outcome = place_decode(asked, fleet=fleet, settings=settings, now_s=NOW_S, step_limit_s=limit_s)
            if not plain.taken:
                assert isinstance(outcome, Rejected)
                assert not plain.late or isinstance(outcome, Saturated)
                refused += 1
                continue
            assert isinstance(outcome, DecodePlacement), outcome
            taken, spared = taken + 1, spared + bool(plain.spared)
            assert outcome.worker_id == plain.taken[0].worker_id
            told = [
                (c.worker_id, c.step_s, c.kv_free_frac, c.cost_s)
                for c in outcome.candidates
                if c.step_s  # those priced at all
            ]
            assert told == numbers(plain.taken + plain.late + plain.spared)
            rest = [(c.worker_id, c.excluded) for c in outcome.candidates if not c.step_s]
            assert rest == plain.excluded
    assert taken > 20
    assert refused > 2
    assert count == 1 or spared > 2


def test_a_record_tells_of_the_moment_of_its_decision() -> None:
    """Statuses and departures after it change nothing in it."""
    settings = RouterSettings()
    fleet = FleetView(settings)
    for status in statuses_of(random.Random(5), 6, mixed=True):
        fleet.fold_status(replace(status, phases=DECODE), 0.0)
    asked = decode_query(context_tokens=40, compatibility="a")
    outcome = place_decode(asked, fleet=fleet, settings=settings, now_s=0.0)
    assert isinstance(outcome, DecodePlacement)
    before = repr((outcome.candidates, outcome.reason))
    fleet.fold_left(WorkerId("w0"))
    fleet.fold_left(outcome.worker_id)
    for status in statuses_of(random.Random(6), 6, mixed=False):
        fleet.fold_status(replace(status, sequence=9), 1.0)
    assert repr((outcome.candidates, outcome.reason)) == before


def test_without_any_worker_nobody_is_ready() -> None:
    """An empty fleet refuses, and may be asked again."""
    settings = RouterSettings()
    outcome = place_decode(decode_query(), fleet=FleetView(settings), settings=settings, now_s=0.0)
    assert isinstance(outcome, NotReady)
