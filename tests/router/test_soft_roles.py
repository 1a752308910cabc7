"""Of the workers that can do both some decode, the fullest ones; the others are left free to prefill."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.domain.placement import DecodePlacement, Path
from services.domain.worker import WorkerLoad, WorkerStatus
from services.router.router import Router
from services.router.soft_roles import PERIOD_S, SoftRoles
from tests.router.scenery import BOTH, DECODE, MODEL, PREFILL, decode_query, placed, query, router_of, worker

NOBODY: frozenset[str] = frozenset()


def running(count: int, tokens_each: int = 500) -> WorkerLoad:
    """A worker that decodes some sequences."""
    blocks = count * tokens_each // 16
    return WorkerLoad(
        running_count=count, running_context_tokens=count * tokens_each, kv_used_blocks=min(4096, blocks)
    )


def free_of(router: Router, *, prompts_per_s: float = 10.0) -> frozenset[str]:
    """Who is left free while prompts of 50 ms come so often."""
    roles = SoftRoles(router.settings)
    for turn in range(round(10 * prompts_per_s)):
        roles.fold(MODEL, 0.05, turn / prompts_per_s)
    return roles.kept_free(MODEL, router.fleet, 10.0)


def soft(*loads: int) -> list[WorkerStatus]:
    """Soft-roled workers that decode so many sequences each."""
    return [worker(f"s{i}", BOTH, load=running(load)) for i, load in enumerate(loads)]


def test_an_idle_fleet_has_one_that_decodes() -> None:
    """A single decoder is enough for nothing, the rest may prefill."""
    assert len(free_of(router_of(*soft(0, 0, 0, 0)))) == 3


def test_the_fullest_go_on_decoding() -> None:
    """Who decodes most keeps the role, so that the others run empty."""
    assert "s2" not in free_of(router_of(*soft(1, 2, 30, 0)))


def test_more_sequences_take_more_workers() -> None:
    """The share of the TPOT target that a step takes grows with them, and so does the number of decoders."""
    few, many = (len(free_of(router_of(*soft(each, each, each, each)))) for each in (2, 200))
    assert many < few


def test_a_single_worker_does_both() -> None:
    """There is nobody to leave anything to."""
    assert free_of(router_of(*soft(3))) == NOBODY


def test_pools_of_one_role_are_nobody_to_keep_free() -> None:
    """Their roles are what somebody wanted."""
    assert free_of(router_of(worker("p", PREFILL), worker("d", DECODE))) == NOBODY


def test_a_prefill_pool_lets_all_others_decode() -> None:
    """With prompts looked after, more sequences may use every soft-roled worker."""
    crowd = running(250, 250)
    pool = [worker(f"s{i}", BOTH, load=crowd) for i in range(2)]
    assert free_of(router_of(*pool, worker("p", PREFILL))) == NOBODY
    assert len(free_of(router_of(*pool))) == 1


def test_full_memory_opens_another() -> None:
    """What does not fit one worker's KV memory is given two, however short the step."""
    assert len(free_of(router_of(*soft(0, 0, 0, 0)))) == 3
    full = running(120, 546)
    router = router_of(worker("s0", BOTH, load=full), *soft(0, 0, 0, 0)[1:])
    assert len(free_of(router)) == 2


def test_prompts_ask_for_prefillers() -> None:
    """The more of them come, the fewer workers decode the same sequences."""
    router = router_of(*(worker(f"s{i}", BOTH, load=running(60, 100)) for i in range(4)))
    assert len(free_of(router, prompts_per_s=50)) > len(free_of(router, prompts_per_s=5))


@given(st.lists(st.integers(0, 256), min_size=1, max_size=8), st.integers(0, 3), st.integers(0, 3))
def test_somebody_can_always_decode(loads: list[int], prefill: int, decode: int) -> None:
    """Only soft-roled workers are left free, never all who decode, and not by the order of arrival."""
    fleet = [
        *soft(*loads),
        *(worker(f"p{i}", PREFILL) for i in range(prefill)),
        *(worker(f"d{i}", DECODE) for i in range(decode)),
    ]
    free = free_of(router_of(*fleet))
    assert all(name.startswith("s") for name in free)
    assert len(free) < len(loads) + decode
    assert free == free_of(router_of(*reversed(fleet)))


def test_roles_are_kept_for_a_moment() -> None:
    """They are found anew a few times a second, not for each request."""
    router = router_of(*soft(5, 0, 0))
    roles = SoftRoles(router.settings)
    before = roles.kept_free(MODEL, router.fleet, 0.0)
    for status in soft(0, 50, 0):
        router.fold_status(replace(status, sequence=2), 0.0)
    assert roles.kept_free(MODEL, router.fleet, PERIOD_S / 2) == before
    assert roles.kept_free(MODEL, router.fleet, PERIOD_S) != before


def test_a_prompt_is_left_to_bids() -> None:
    """The queue gets it, although the router would have begun it at once on an idle soft-roled worker."""
    placement = placed(router_of(*soft(0, 0)), query())
    assert placement.path is Path.REMOTE
    assert "bid" in placement.reason
    assert any(c.path is Path.LOCAL and c.excluded for c in placement.candidates)


def test_sequences_gather() -> None:
    """While prompts come, a handed-over sequence joins the others and leaves the rest free."""
    router = router_of(*soft(4, 0, 0))
    for turn in range(100):
        asked = query(f"p{turn}", prompt_tokens=8000)
        placed(router, asked)
        router.fold_ended(asked.request_id)
    outcome = router.place_decode(decode_query(), 0.0)
    assert isinstance(outcome, DecodePlacement)
    assert outcome.worker_id == "s0"
    assert {c.worker_id for c in outcome.candidates if c.excluded} == {"s1", "s2"}


def test_who_is_left_free_decodes_when_nobody_else_has_room() -> None:
    """Roles give way to memory."""
    full = WorkerLoad(running_count=1, running_context_tokens=500, kv_used_blocks=4096)
    router = router_of(worker("s0", BOTH, load=full), *soft(0, 0)[1:])
    outcome = router.place_decode(decode_query(), 0.0)
    assert isinstance(outcome, DecodePlacement)
    assert outcome.worker_id == "s1"


def test_nothing_moves_to_who_holds_it() -> None:
    """Of two equal workers the one that computed the prompt goes on with it."""
    router = router_of(worker("a", DECODE), worker("b", DECODE))
    for holder in ("a", "b"):
        asked = decode_query(holder=holder)
        outcome = router.place_decode(asked, 0.0)
        assert isinstance(outcome, DecodePlacement)
        assert outcome.worker_id == holder
        router.fold_ended(asked.request_id)
