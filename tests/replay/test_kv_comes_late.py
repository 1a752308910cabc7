"""How late KV is, and makes that of others, where one link leads to a worker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.replay.policies.baton_coming import Coming, lateness

times = st.floats(0.0, 5.0)


@st.composite
def comings(draw: st.DrawFn) -> Coming:
    """Draw one whose prompt began at some time before 1 and ends behind that."""
    begin_s = draw(st.floats(0.0, 1.0))
    return Coming(
        at_s=begin_s + draw(st.floats(0.01, 3.0)),
        is_shown=False,
        begin_s=begin_s,
        move_s=draw(st.floats(0.0, 2.0)),
    )


def coming(at_s: float, move_s: float) -> Coming:
    """Make one whose prompt begins now, at 0."""
    return Coming(at_s=at_s, is_shown=False, begin_s=0.0, move_s=move_s)


def test_kv_that_moves_while_its_prompt_is_computed_is_not_late() -> None:
    """Unless a long prefix that needs no computing takes longer to move than the rest to compute."""
    assert lateness([], move_s=0.3, end_s=0.5, now_s=0.0).own_s == 0.0
    assert lateness([], move_s=0.8, end_s=0.5, now_s=0.0).own_s == pytest.approx(0.3)


def test_what_is_ready_first_moves_first() -> None:
    """So a prompt waits for those that end before it, and those behind it wait for the prompt."""
    before, behind = coming(0.4, 0.4), coming(0.6, 0.1)
    late = lateness([behind, before], move_s=0.3, end_s=0.5, now_s=0.0)
    assert late.own_s == pytest.approx(0.4 + 0.3 - 0.5)
    assert late.others_s == pytest.approx(0.2), "0.4 + 0.3 + 0.1 s instead of 0.6 s"


def test_half_of_it_has_moved_when_half_of_the_prompt_is_computed() -> None:
    """What is on its way for long does not take the link for long."""
    assert coming(0.4, 0.2).rest_s(0.2) == 0.1
    assert coming(0.4, 0.2).rest_s(0.4) == 0.0


@given(others=st.lists(comings(), max_size=6), one_more=comings(), move_s=times, end_s=st.floats(1.0, 5.0))
def test_another_on_the_link_makes_nothing_sooner(
    others: list[Coming], one_more: Coming, move_s: float, end_s: float
) -> None:
    """And what is small makes no more late than what is large."""
    fewer = lateness(others, move_s=move_s, end_s=end_s, now_s=1.0)
    more = lateness([*others, one_more], move_s=move_s, end_s=end_s, now_s=1.0)
    larger = lateness(others, move_s=2 * move_s, end_s=end_s, now_s=1.0)
    assert more.own_s >= fewer.own_s - 1e-9
    assert larger.own_s >= fewer.own_s
    assert larger.others_s >= fewer.others_s - 1e-9
