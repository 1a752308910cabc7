"""A prompt goes where its prefix is, as far as that saves time."""

from services.domain.placement import Path, PathPreference
from services.domain.worker import WorkerLoad
from tests.router.scenery import BOTH, DECODE, PREFILL, holding, placed, query, router_of, worker


def test_the_holder_of_the_prefix_is_chosen() -> None:
    """Of equal workers the one that holds leading blocks is chosen, and the record says how many."""
    asked = query(prompt_tokens=4096)
    router = router_of(*(worker(f"w{i}", BOTH) for i in range(8)))
    holding(router, "w5", asked, 200)
    placement = placed(router, asked)
    assert (placement.worker_id, placement.overlap_blocks) == ("w5", 200)
    assert placement.candidates[0].uncached_tokens == 4096 - 200 * 16
    assert "holds 200 of 256 blocks" in placement.reason


def test_a_longer_overlap_beats_a_shorter_one() -> None:
    """Among holders the one with the longest leading run is chosen."""
    asked = query(prompt_tokens=4096)
    router = router_of(*(worker(f"w{i}", DECODE) for i in range(4)))
    for i, blocks in enumerate((10, 250, 40, 120)):
        holding(router, f"w{i}", asked, blocks)
    assert placed(router, asked).worker_id == "w1"


def test_overlap_is_worth_what_it_saves_and_no_more() -> None:
    """A holder that is busy for longer than its blocks save loses against an idle worker."""
    asked = query(prompt_tokens=1280)
    busy = WorkerLoad(waiting_count=4, waiting_prefill_tokens=20_000)
    router = router_of(worker("holder", DECODE, load=busy), worker("idle", DECODE))
    holding(router, "holder", asked, 40)
    assert placed(router, asked).worker_id == "idle"


def test_the_remote_hint_names_the_prefill_worker_that_holds_the_prefix() -> None:
    """A queued prompt carries the worker with the overlap as its hint."""
    asked = query(prompt_tokens=8192, preference=PathPreference.REMOTE)
    router = router_of(*(worker(f"p{i}", PREFILL) for i in range(4)), worker("d0", DECODE))
    holding(router, "p2", asked, 300)
    placement = placed(router, asked)
    assert (placement.path, placement.worker_id, placement.overlap_blocks) == (Path.REMOTE, "p2", 300)


def test_a_whole_prompt_in_cache_still_computes_a_token() -> None:
    """An engine always computes at least the last token, so the record never says zero."""
    asked = query(prompt_tokens=1280)
    router = router_of(worker("w0", DECODE))
    holding(router, "w0", asked, 80)
    assert placed(router, asked).candidates[0].uncached_tokens == 1
