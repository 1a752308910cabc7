"""The error table and the estimate behind `Retry-After`: pure."""

import json
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.errors import LEAVES, InternalFault, RateLimited, Saturated, Unsupported
from services.gateway.edge.admission import (
    RETRY_AFTER_MAX_S,
    RETRY_AFTER_MIN_S,
    BodyBudget,
    estimate_retry_after_s,
)
from services.gateway.edge.error_table import TABLE, render_error, retry_after_s, row_of


def test_every_leaf_has_one_row() -> None:
    """The table is total over the tree and has nothing else."""
    assert set(TABLE) == set(LEAVES)
    assert all(400 <= row.http_status <= 599 for row in TABLE.values())


def test_whose_fault_it_is_shows_in_the_status() -> None:
    """A retryable rejection is 429 or 503, a fault of ours is 5xx, a wrong request 4xx but never 429."""
    for leaf, row in TABLE.items():
        if "retry_after_s" in leaf.__dataclass_fields__:
            assert row.http_status in (429, 503), leaf
        assert (row.http_status == 429) <= leaf.retryable, leaf
        assert (row.openai_type == "server_error") == (row.http_status >= 500), leaf


def test_an_error_body_has_openai_s_shape() -> None:
    """Message, type, param and code, all present."""
    body = json.loads(render_error(Unsupported(message="no tools", param="tools")))
    assert body == {
        "error": {
            "message": "no tools",
            "type": "invalid_request_error",
            "param": "tools",
            "code": "unsupported",
        }
    }


def test_retry_after_is_whole_seconds_and_never_zero() -> None:
    """HTTP wants whole seconds; zero would invite at once who was just refused."""
    assert retry_after_s(RateLimited(message="", retry_after_s=0.01)) == 1
    assert retry_after_s(Saturated(message="", retry_after_s=2.1)) == 3
    assert retry_after_s(InternalFault(message="")) is None
    assert row_of(Saturated(message="", retry_after_s=1)).http_status == 429


@given(
    needed=st.integers(1, 100),
    ages_s=st.lists(st.floats(0, 1000), max_size=50),
)
def test_the_estimate_stays_in_its_bounds(needed: int, ages_s: list[float]) -> None:
    """Whatever happened before, the estimate is finite and within its bounds."""
    endings = deque(1000 - a for a in sorted(ages_s, reverse=True))
    assert RETRY_AFTER_MIN_S <= estimate_retry_after_s(needed, endings, 1000) <= RETRY_AFTER_MAX_S


def test_the_estimate_follows_the_rate() -> None:
    """Twenty places at two endings a second take ten seconds."""
    endings = deque([90.0 + i / 2 for i in range(20)])
    assert estimate_retry_after_s(20, endings, 100.0) == pytest.approx(10)


def test_bodies_being_read_are_bounded_together() -> None:
    """Bytes are counted over all calls, and given back."""
    budget = BodyBudget(100)
    budget.take(60)
    with pytest.raises(Saturated):
        budget.take(41)
    budget.give_back(60)
    budget.take(100)
