"""Workers are turned over the bus beneath any target whose pools are launched for one role."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from planner.decision import Decision, Flip
from planner.observation import PoolState
from planner.targets.turning import PATIENCE_S, Turning
from planner.turns import Home, acting, by_role, chosen, launched
from services.bus.fleet import Fleet
from services.bus.memory import MemoryBroker, MemoryBus
from services.domain.worker import Lifecycle, Phase, WorkerLoad, WorkerStatus
from services.runtime.clock import LoopClock, run_virtual
from services.runtime.tasks import Nursery
from tests.planner.kubernetes import scene
from tests.planner.kubernetes.api_state import ApiState
from tests.planner.kubernetes.scene import orders
from tests.planner.kubernetes.wire import Wire
from tests.planner.situations import pools
from tests.router.scenery import DECODE, PREFILL
from tests.router.scenery import worker as announced

HOMES = (
    Home(phase=Phase.PREFILL, prefix="baton-prefill-"),
    Home(phase=Phase.DECODE, prefix="baton-decode-"),
)
LAUNCHED = [announced(f"baton-prefill-{i}", PREFILL) for i in range(2)] + [
    announced(f"baton-decode-{i}", DECODE) for i in range(3)
]

Story = Callable[[Turning, ApiState, Wire], Awaitable[None]]


def flips(source: Phase, count: int, *, after: Decision) -> Decision:
    """The same decision, after so many workers turned."""
    return replace(after, flips=(Flip(kind="default", source=source, worker_count=count),))


def ready(seen: tuple[PoolState, ...]) -> tuple[int, int]:
    """Ready prefill and decode workers."""
    counts = {pool.phase: pool.ready_count for pool in seen}
    return counts[Phase.PREFILL], counts[Phase.DECODE]


async def live(bus: MemoryBus, status: WorkerStatus, *, obeys: bool) -> None:
    """Announce a worker, again with each order that it obeys."""
    async with bus.watch_roles(status.worker_id) as heard:
        await bus.announce(status, ttl_s=3600.0)
        async for order in heard:
            if obeys and order.epoch == status.epoch:
                status = replace(status, phases=order.phases, sequence=status.sequence + 1)
                await bus.announce(status, ttl_s=3600.0)


def play(story: Story, *, obeys: bool = True, may_turn: bool = True) -> None:
    """Tell a story of two workloads on Kubernetes whose workers are on a bus."""

    async def run() -> None:
        api, broker, clock = scene.state(), MemoryBroker(), LoopClock()
        wire, bus = Wire(api), MemoryBus(broker, "planner")
        workers, fleet = Nursery("workers"), Fleet(bus)
        for status in LAUNCHED:
            workers.start(live(MemoryBus(broker, status.worker_id), status, obeys=obeys), status.worker_id)
        await asyncio.sleep(1.0)
        target = Turning(scene.target(wire), bus, fleet, HOMES, now_s=clock.now_s, may_turn=lambda: may_turn)
        try:
            await story(target, api, wire)
        finally:
            await target.close()
            await fleet.close()
            await workers.close()

    run_virtual(run())


def test_a_worker_turns_and_no_size_is_written() -> None:
    """It counts to its new role at once, and when its status shows it."""

    async def story(target: Turning, _api: ApiState, wire: Wire) -> None:
        assert ready(await target.pools()) == (2, 3)
        outcome = await target.carry_out(flips(Phase.PREFILL, 1, after=orders(1, 4)))
        assert outcome.done == ("1 turned from prefill to decode: baton-prefill-0",)
        assert not outcome.left
        assert ready(await target.pools()) == (1, 4)
        await asyncio.sleep(2 * PATIENCE_S)
        assert ready(await target.pools()) == (1, 4)
        assert not wire.writes

    play(story)


def test_sizes_are_ordered_where_workers_are_launched() -> None:
    """One more prefill worker beside one that is away is a third replica of its workload."""

    async def story(target: Turning, _api: ApiState, wire: Wire) -> None:
        await target.pools()
        await target.carry_out(flips(Phase.PREFILL, 1, after=orders(1, 4)))
        await target.pools()
        await target.carry_out(orders(2, 4))
        assert wire.writes == [("baton-prefill", 3)]

    play(story)


def test_whoever_is_away_goes_home_first() -> None:
    """A decode worker is wanted back as a prefill worker: the one that was launched as such turns."""

    async def story(target: Turning, _api: ApiState, _wire: Wire) -> None:
        await target.pools()
        await target.carry_out(flips(Phase.PREFILL, 1, after=orders(1, 4)))
        await asyncio.sleep(1.0)
        await target.pools()
        outcome = await target.carry_out(flips(Phase.DECODE, 1, after=orders(2, 3)))
        assert outcome.done == ("1 turned from decode to prefill: baton-prefill-0",)
        assert ready(await target.pools()) == (2, 3)

    play(story)


def test_a_person_who_holds_a_pool_holds_its_workers() -> None:
    """Nobody turns, neither away nor to it, and nobody is started in their place."""

    async def story(target: Turning, api: ApiState, wire: Wire) -> None:
        api.edit(scene.DECODE, held=True)
        await target.pools()
        outcome = await target.carry_out(flips(Phase.PREFILL, 1, after=orders(1, 4)))
        assert outcome.left == ("1 not turned from prefill to decode: a pool is held by hand",)
        assert ready(await target.pools()) == (2, 3)
        assert not wire.writes

    play(story)


def test_who_does_not_lead_turns_nobody() -> None:
    """Two planners do not order the same workers."""

    async def story(target: Turning, _api: ApiState, _wire: Wire) -> None:
        await target.pools()
        outcome = await target.carry_out(flips(Phase.PREFILL, 1, after=orders(1, 4)))
        assert "holds no lease" in outcome.left[0]
        await asyncio.sleep(2.0)
        assert ready(await target.pools()) == (2, 3)

    play(story, may_turn=False)


def test_who_does_not_obey_is_seen_as_it_is() -> None:
    """After a while the planner believes the status, not the order."""

    async def story(target: Turning, _api: ApiState, _wire: Wire) -> None:
        await target.pools()
        await target.carry_out(flips(Phase.PREFILL, 1, after=orders(1, 4)))
        assert ready(await target.pools()) == (1, 4)
        await asyncio.sleep(PATIENCE_S + 1.0)
        assert ready(await target.pools()) == (2, 3)

    play(story, obeys=False)


def test_more_than_are_there_do_not_turn() -> None:
    """What is missing is said."""

    async def story(target: Turning, _api: ApiState, _wire: Wire) -> None:
        await target.pools()
        outcome = await target.carry_out(flips(Phase.PREFILL, 3, after=orders(0, 6)))
        assert outcome.done[0].startswith("2 turned from prefill to decode")
        assert "no more workers of that role" in outcome.left[0]

    play(story)


@given(
    st.lists(
        st.tuples(st.sampled_from(LAUNCHED), st.sampled_from([PREFILL, DECODE]), st.integers(0, 9)),
        unique_by=lambda one: one[0].worker_id,
    ),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_roles_move_workers_between_pools_and_lose_none(
    fleet: list[tuple[WorkerStatus, tuple[Phase, ...], int]], prefill: int, decode: int
) -> None:
    """However many the orchestrator counts, and whoever announces itself."""
    statuses = [
        replace(status, phases=phases, load=WorkerLoad(running_count=running))
        for status, phases, running in fleet
    ]
    workers = acting(statuses, HOMES, {})
    seen = by_role(pools(prefill, decode), workers)
    assert sum(ready(seen)) == prefill + decode
    assert min(ready(seen)) >= 0
    for source in Phase:
        picked = chosen(workers, source, 2)
        assert all(one.role is source for one in picked)
        assert len(picked) == min(2, sum(one.role is source for one in workers))


@given(st.integers(0, 5), st.integers(0, 5), st.integers(-5, 5), st.integers(0, 9), st.integers(0, 9))
def test_ordered_sizes_add_up_to_what_was_decided(
    prefill: int, decode: int, away: int, wanted_prefill: int, wanted_decode: int
) -> None:
    """Whoever is away from home: as many are launched as were asked for, and never fewer than none."""
    away = max(-decode, min(prefill, away))
    sizes = launched(
        orders(wanted_prefill, wanted_decode), pools(prefill, decode), pools(prefill - away, decode + away)
    )
    assert sum(order.worker_count for order in sizes) == wanted_prefill + wanted_decode
    assert all(order.worker_count >= 0 for order in sizes)


def test_who_drains_or_lives_elsewhere_is_not_counted() -> None:
    """Only workers that take work turn, and only those of these pools; the longest name counts."""
    homes = (*HOMES, Home(phase=Phase.DECODE, prefix="baton-prefill-long-"))
    fleet = [
        replace(LAUNCHED[0], lifecycle=Lifecycle.DRAINING),
        announced("other-decode-0", DECODE),
        announced("baton-prefill-long-0", PREFILL),
    ]
    (one,) = acting(fleet, homes, {})
    assert one.home is Phase.DECODE
    assert one.role is Phase.PREFILL
