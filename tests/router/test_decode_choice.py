"""A handed-over prompt goes to the decode worker where it and the others lose least."""

from dataclasses import replace

from services.domain.errors import NotReady, Saturated
from services.domain.placement import DecodePlacement, DecodeQuery
from services.domain.worker import WorkerLoad
from services.router.router import Router
from tests.router.scenery import DECODE, LIMITS, PREFILL, decode_query, router_of, worker


def chosen(router: Router, asked: DecodeQuery) -> DecodePlacement:
    """Place and insist that it worked."""
    outcome = router.place_decode(asked, 0.0)
    assert isinstance(outcome, DecodePlacement), outcome
    return outcome


def running(count: int, tokens_each: int = 1000) -> WorkerLoad:
    """A worker that decodes some sequences."""
    return WorkerLoad(
        running_count=count,
        running_context_tokens=count * tokens_each,
        kv_used_blocks=count * tokens_each // 16,
    )


def test_the_shortest_step_wins() -> None:
    """Fewer sequences and less context mean a shorter predicted step."""
    router = router_of(
        worker("a", DECODE, load=running(30)), worker("b", DECODE, load=running(3)), worker("p", PREFILL)
    )
    placement = chosen(router, decode_query())
    assert placement.worker_id == "b"
    assert [c.worker_id for c in placement.candidates] == ["b", "a"]
    assert "runs 3 requests" in placement.reason


def test_a_worker_about_to_prefill_is_avoided() -> None:
    """Prompts that a worker still has to compute stall whatever joins it."""
    busy = WorkerLoad(waiting_count=1, waiting_prefill_tokens=8000)
    router = router_of(worker("a", DECODE, load=busy), worker("b", DECODE, load=running(20)))
    assert chosen(router, decode_query()).worker_id == "b"


def test_memory_that_will_run_out_is_priced() -> None:
    """Of two workers with almost equal steps, the one whose memory would fill up loses."""
    tight = replace(running(8), kv_used_blocks=4000)
    router = router_of(worker("a", DECODE, load=tight), worker("b", DECODE, load=running(9)))
    assert chosen(router, decode_query(context_tokens=1000, output_tokens_max=800)).worker_id == "b"


def test_full_memory_is_a_wait_and_no_refusal() -> None:
    """When no worker has room now, the one that soonest has is chosen, with the wait in its reason."""
    full = replace(running(100, 640), kv_used_blocks=4096)
    router = router_of(worker("a", DECODE, load=full))
    placement = chosen(router, decode_query(output_tokens_max=100))
    assert "until memory is free" in placement.reason
    assert placement.candidates[0].kv_free_frac == 0.0


def test_a_wait_beyond_the_limit_is_saturation() -> None:
    """When memory is predicted to stay full for too long, the answer says after which time to retry."""
    full = replace(running(1, 65_536), kv_used_blocks=4096)
    router = router_of(worker("a", DECODE, load=full))
    outcome = router.place_decode(decode_query(context_tokens=20_000, output_tokens_max=12_000), 0.0)
    assert isinstance(outcome, Saturated)
    assert outcome.retry_after_s > 0


def test_only_compatible_engines_read_the_kv() -> None:
    """A ticket's layout restricts the workers; with none left the refusal names the reason."""
    other = replace(LIMITS, compatibility="other")
    router = router_of(worker("a", DECODE, limits=other), worker("b", DECODE, load=running(50)))
    assert chosen(router, decode_query()).worker_id == "b"
    outcome = router.place_decode(decode_query(compatibility="third"), 0.0)
    assert isinstance(outcome, NotReady)
    assert "cannot read KV of 'third'" in outcome.message


def test_workers_that_failed_the_request_are_not_asked_again() -> None:
    """The avoid list excludes, and the record keeps who and why."""
    router = router_of(worker("a", DECODE), worker("b", DECODE, load=running(50)))
    placement = chosen(router, decode_query(avoid=("a",)))
    assert placement.worker_id == "b"
    assert placement.candidates[1].excluded == "failed this request before"
