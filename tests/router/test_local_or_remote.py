"""Whether a decode worker prefills a prompt itself is a matter of predicted seconds."""

import pytest

from services.domain.ids import WorkerId
from services.domain.placement import Path, PathPreference, Placement
from services.domain.worker import WorkerLoad
from services.router.router import Router
from services.router.settings import RouterSettings
from tests.router.scenery import BOTH, DECODE, PREFILL, placed, query, router_of, worker

RUNNING = WorkerLoad(running_count=9, running_context_tokens=9000, kv_used_blocks=600)


def test_an_idle_decode_worker_prefills_by_itself() -> None:
    """With nobody to harm, the handoff is pure cost."""
    assert placed(router_of(worker("p0", PREFILL), worker("d0", DECODE)), query()).path is Path.LOCAL


def test_running_requests_are_protected_from_a_long_prompt() -> None:
    """A prefill that would stall running requests goes to a prefill worker, and the reason says why."""
    router = router_of(worker("prefill-0", PREFILL), worker("decode-0", DECODE, load=RUNNING))
    placement = placed(router, query(prompt_tokens=8000))
    assert (placement.path, placement.worker_id) == (Path.REMOTE, "prefill-0")
    assert "and stall 9 running requests for" in placement.reason
    assert "ms each" in placement.reason
    local = next(c for c in placement.candidates if c.path is Path.LOCAL)
    assert local.harm_s > 0
    assert local.cost_s == pytest.approx(local.ttft_s + local.harm_s)


def test_a_short_prompt_harms_nobody() -> None:
    """A prefill that fits into the TPOT target beside the running requests stays local."""
    router = router_of(worker("p0", PREFILL), worker("d0", DECODE, load=RUNNING))
    assert placed(router, query(prompt_tokens=64)).path is Path.LOCAL


def test_a_long_queue_makes_local_prefill_cheaper() -> None:
    """When every prefill worker is busy for long, prompts spill to decode workers."""
    busy = WorkerLoad(waiting_count=20, waiting_prefill_tokens=200_000)
    router = router_of(worker("p0", PREFILL, load=busy), worker("d0", DECODE, load=RUNNING))
    assert placed(router, query(prompt_tokens=2000)).path is Path.LOCAL


def test_a_looser_tpot_target_lets_more_prompts_stay() -> None:
    """Harm is what exceeds the target, so the target moves the decision."""
    paths = []
    for tpot_s in (0.02, 2.0):
        router = Router(RouterSettings(tpot_target_s=tpot_s))
        router.fold_status(worker("p0", PREFILL), 0.0)
        router.fold_status(worker("d0", DECODE, load=RUNNING), 0.0)
        paths.append(placed(router, query(prompt_tokens=8000)).path)
    assert paths == [Path.REMOTE, Path.LOCAL]


@pytest.mark.parametrize("path", [Path.LOCAL, Path.REMOTE])
def test_a_preference_is_followed_where_possible(path: Path) -> None:
    """A caller that asks for a path gets it, whatever it costs."""
    router = router_of(worker("p0", PREFILL), worker("d0", DECODE, load=RUNNING))
    for tokens in (64, 8000):
        asked = query(f"{tokens}", prompt_tokens=tokens, preference=PathPreference(path.value))
        placement = placed(router, asked)
        assert placement.path is path
        assert f"{path} prefill was asked for" in placement.reason


def test_the_setting_stands_in_for_requests_that_ask_nothing() -> None:
    """The default preference restricts `auto` requests and no others."""
    router = Router(RouterSettings(preference=PathPreference.REMOTE))
    router.fold_status(worker("p0", PREFILL), 0.0)
    router.fold_status(worker("d0", DECODE), 0.0)
    assert placed(router, query("a")).path is Path.REMOTE
    assert placed(router, query("b", preference=PathPreference.LOCAL)).path is Path.LOCAL


def test_an_impossible_preference_falls_back_and_says_so() -> None:
    """A path that nobody offers does not fail the request."""
    placement = placed(router_of(worker("d0", DECODE)), query(preference=PathPreference.REMOTE))
    assert placement.path is Path.LOCAL
    assert "remote prefill was asked for but is impossible" in placement.reason


def test_a_worker_does_not_hand_over_to_itself() -> None:
    """With one worker of both phases the remote way is no way, and its record says so."""
    placement = placed(router_of(worker("w0", BOTH)), query(preference=PathPreference.REMOTE))
    assert placement.path is Path.LOCAL
    excluded = [c.excluded for c in placement.candidates if c.path is Path.REMOTE]
    assert excluded == ["no other worker could decode what it prefills"]


def test_without_a_queue_prompts_are_prefilled_locally() -> None:
    """While the bus is away nothing is queued, and nothing is refused that a decode worker can serve."""
    router = router_of(worker("p0", PREFILL), worker("d0", DECODE, load=RUNNING))
    router.fold_bus(connected=False, now_s=1.0)
    outcome = router.place(query(prompt_tokens=8000), 500.0)
    assert isinstance(outcome, Placement)
    assert outcome.path is Path.LOCAL
    assert "the prefill queue does not answer" in outcome.reason


def test_incompatible_pools_do_not_hand_over() -> None:
    """KV that no decode worker could read is not computed on a prefill worker."""
    limits = worker("x", PREFILL).limits
    other = type(limits)(**{f: getattr(limits, f) for f in limits.__slots__} | {"compatibility": "other"})
    router = router_of(worker("p0", PREFILL, limits=other), worker("d0", DECODE, load=RUNNING))
    assert placed(router, query(prompt_tokens=8000)).worker_id == WorkerId("d0")
