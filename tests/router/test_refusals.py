"""What cannot be placed is refused with the reason a client can act on."""

from dataclasses import replace

from services.domain.errors import ContextTooLong, NotReady, Saturated, UnknownModel
from services.domain.worker import WorkerLoad
from services.router.router import Router
from services.router.settings import RouterSettings
from tests.router.scenery import DECODE, LIMITS, PREFILL, query, router_of, worker


def test_nobody_known_yet_is_a_matter_of_time() -> None:
    """An empty fleet says to come back, not that the model does not exist."""
    outcome = Router(RouterSettings()).place(query(), 0.0)
    assert isinstance(outcome, NotReady)
    assert outcome.retry_after_s > 0


def test_an_unknown_model_is_named_with_those_that_exist() -> None:
    """A model that no worker of a live fleet serves is refused for good."""
    outcome = router_of(worker("d0", DECODE)).place(query(model="huge"), 0.0)
    assert isinstance(outcome, UnknownModel)
    assert outcome.model == "huge"
    assert "tiny" in outcome.message


def test_a_prompt_beyond_every_context_is_refused_for_good() -> None:
    """The limit named is the largest that any decode worker has."""
    small, large = replace(LIMITS, context_tokens_max=2048), replace(LIMITS, context_tokens_max=4096)
    router = router_of(worker("a", DECODE, limits=small), worker("b", DECODE, limits=large))
    outcome = router.place(query(prompt_tokens=4090, output_tokens_max=10), 0.0)
    assert isinstance(outcome, ContextTooLong)
    assert (outcome.prompt_tokens, outcome.limit_tokens) == (4090, 4096)


def test_memory_limits_a_request_as_context_does() -> None:
    """A request that no worker's KV memory could hold alone is refused for good."""
    router = router_of(worker("a", DECODE, limits=replace(LIMITS, kv_blocks=64)))
    outcome = router.place(query(prompt_tokens=1000, output_tokens_max=100), 0.0)
    assert isinstance(outcome, ContextTooLong)
    assert outcome.limit_tokens == 1024


def test_a_fleet_of_prefill_workers_alone_is_not_ready() -> None:
    """Without anybody to decode, no path is complete."""
    assert isinstance(router_of(worker("p0", PREFILL)).place(query(), 0.0), NotReady)


def test_saturation_tells_when_to_come_back() -> None:
    """When every wait is predicted longer than allowed, the retry time is what exceeds it."""
    busy = WorkerLoad(waiting_count=100, waiting_prefill_tokens=4_000_000)
    router = router_of(worker("d0", DECODE, load=busy), worker("p0", PREFILL, load=busy))
    outcome = router.place(query(), 0.0)
    assert isinstance(outcome, Saturated)
    view = router.fleet.workers()[0]
    assert outcome.retry_after_s == view.backlog_s - router.settings.wait_max_s


def test_when_everybody_failed_the_request_the_refusal_says_so() -> None:
    """Avoided workers are named."""
    outcome = router_of(worker("d0", DECODE)).place(query(avoid=("d0",)), 0.0)
    assert isinstance(outcome, NotReady)
    assert "d0 failed this request before" in outcome.message
