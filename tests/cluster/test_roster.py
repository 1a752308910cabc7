"""Who is started, turned and let go: whatever is ordered, and whatever happens to processes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cluster.roster import OrderOutdated, OrderRefused, Roster, Standing
from services.domain.pools import Launched, LaunchOrder
from services.domain.worker import Phase
from tests.planner.local.scene import crowd

SIZES = st.dictionaries(st.sampled_from(Phase), st.integers(0, 6))
TURNS = st.dictionaries(st.sampled_from(Phase), st.integers(0, 3))
ROLES = st.dictionaries(
    st.integers(0, 8).map("worker-{}".format),
    st.lists(st.sampled_from(Phase), min_size=1, max_size=2, unique=True).map(tuple),
    max_size=2,
)
ORDERS = st.builds(LaunchOrder, turns=TURNS, roles=ROLES, sizes=SIZES)
NEWS = st.tuples(st.sampled_from(["starting", "ready", "gone"]), st.integers(0, 12).map("worker-{}".format))


def sizes(state: Launched) -> dict[Phase, int]:
    """Workers that are there or on their way."""
    return {pool.phase: pool.ready_count + len(pool.starting_s) for pool in state.pools}


@given(
    events=st.lists(ORDERS | NEWS, max_size=12), busy=st.dictionaries(st.just("worker-1"), st.integers(0, 9))
)
def test_orders_are_obeyed_as_a_whole_or_not_at_all(
    events: list[LaunchOrder | tuple[str, str]], busy: dict[str, int]
) -> None:
    """After an order the pools have its sizes, and no seat, name or version is used twice."""
    roster = crowd(2, 3)
    names = {member.name for member in roster.members()}
    for at_s, event in enumerate(events):
        before = roster.report(at_s)
        if isinstance(event, tuple):
            news, name = event
            if news == "gone":
                roster.gone(name)
            else:
                roster.stands(name, Standing(news), at_s)
        else:
            try:
                changes = roster.obey(event, busy, at_s)
            except OrderRefused:
                assert roster.report(at_s) == before
                continue
            state = roster.report(at_s)
            assert all(sizes(state)[phase] == size for phase, size in event.sizes.items())
            hired = {member.name for member in changes.hired}
            assert not hired & names
            names |= hired
            happened = changes.hired or changes.turned or changes.dismissed
            assert (state.version != before.version) == bool(happened)
        seats = [member.seat for member in roster.members()]
        assert len(set(seats)) == len(seats)


def test_whoever_has_not_started_goes_first() -> None:
    """It has nothing to finish; of those that serve the idlest goes."""
    roster = crowd(0, 2)
    roster.obey(LaunchOrder(sizes={Phase.DECODE: 3}), {}, 1.0)
    gone = roster.obey(LaunchOrder(sizes={Phase.DECODE: 1}), {"worker-0": 0, "worker-1": 5}, 2.0).dismissed
    assert [member.name for member in gone] == ["worker-2", "worker-0"]


def test_the_slowest_of_the_last_starts_is_reported() -> None:
    """From the order until it took work, lives that were started again included; old ones are forgotten."""
    roster = Roster(0)
    assert roster.report(0.0).start_s is None
    name = roster.hire((Phase.DECODE,), 0.0).name
    roster.stands(name, Standing.READY, 90.0)
    assert roster.report(95.0).start_s == 90.0
    for life in range(1, 5):
        roster.stands(name, Standing.STARTING, 100.0 * life)
        assert roster.report(100.0 * life).start_s == 90.0
        roster.stands(name, Standing.READY, 100.0 * life + 10.0 * life)
    assert roster.report(500.0).start_s == 40.0


def test_an_order_for_another_state_is_refused() -> None:
    """Also when that state was one of the launcher's former life."""
    roster = crowd(1, 1)
    known = roster.report(0.0).version
    roster.obey(LaunchOrder(version=known, sizes={Phase.DECODE: 2}), {}, 0.0)
    with pytest.raises(OrderOutdated):
        roster.obey(LaunchOrder(version=known, sizes={Phase.DECODE: 3}), {}, 0.0)
    with pytest.raises(OrderOutdated):
        Roster(known + 7).obey(LaunchOrder(version=known, sizes={Phase.DECODE: 3}), {}, 0.0)


def test_a_seat_is_free_when_its_worker_is_gone() -> None:
    """Cores of an engine are not given to the next one while it drains."""
    roster = crowd(1, 1)
    roster.obey(LaunchOrder(sizes={Phase.DECODE: 0}), {}, 0.0)
    draining = roster.obey(LaunchOrder(sizes={Phase.DECODE: 1}), {}, 0.0).hired
    roster.gone("worker-1")
    after = roster.obey(LaunchOrder(sizes={Phase.DECODE: 2}), {}, 0.0).hired
    assert [member.seat for member in (*draining, *after)] == [2, 1]


def test_a_soft_roled_worker_counts_to_decode() -> None:
    """It can be turned to prefill like any other that decodes."""
    roster = crowd(1, 1)
    roster.obey(LaunchOrder(roles={"worker-0": (Phase.PREFILL, Phase.DECODE)}), {}, 0.0)
    assert sizes(roster.report(0.0)) == {Phase.PREFILL: 0, Phase.DECODE: 2}
    roster.obey(LaunchOrder(turns={Phase.DECODE: 1}), {"worker-1": 3}, 0.0)
    member = roster.get("worker-0")
    assert member is not None
    assert member.role == (Phase.PREFILL,)
