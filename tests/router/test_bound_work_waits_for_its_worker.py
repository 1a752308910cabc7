"""What waits in the queue for one worker in particular counts there, and not everywhere alike."""

from hypothesis import given
from hypothesis import strategies as st

from services.domain.placement import PathPreference, Placement
from services.router.pricing.queue_load import bound_tokens
from services.router.router import Router
from services.router.settings import RouterSettings
from tests.router.scenery import DECODE, PREFILL, holding, query, worker


def test_prompts_sent_to_a_holder_make_the_next_one_go_elsewhere() -> None:
    """A prefix that many ask for gets a second worker once waiting costs more than computing it."""
    router = Router(RouterSettings())
    for status in (worker("d", DECODE), worker("p0", PREFILL), worker("p1", PREFILL)):
        router.fold_status(status, 0.0)
    first = query("r0", prompt_tokens=1500, preference=PathPreference.REMOTE)
    holding(router, "p0", first, 60)
    named = []
    for number in range(40):
        asked = query(
            f"r{number}",
            prompt_tokens=1500,
            hashes=first.block_hashes,
            preference=PathPreference.REMOTE,
        )
        placed = router.place(asked, 0.0)
        assert isinstance(placed, Placement)
        named.append(placed.worker_id)
    assert named[0] == "p0"
    assert {"p0", "p1"} == set(named)


@given(st.integers(1, 100_000), st.data())
def test_only_what_is_partly_cached_is_bound(prompt_tokens: int, data: st.DataObject) -> None:
    """A task of which nothing is cached is anybody's; no task is bound by more than its work."""
    uncached = data.draw(st.integers(1, prompt_tokens))
    bound = bound_tokens(prompt_tokens=prompt_tokens, uncached_tokens=uncached)
    assert 0.0 <= bound <= uncached
    assert bound_tokens(prompt_tokens=prompt_tokens, uncached_tokens=prompt_tokens) == 0.0
