"""The target on this machine: one order per decision, whoever was quicker wins, held pools stay."""

from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from planner.decision import Decision, Flip
from planner.targets.local import Local
from planner.targets.local_settings import LocalSettings
from planner.targets.port import TargetUnavailable
from services.domain.pools import LaunchOrder
from services.domain.worker import Phase
from tests.planner.kubernetes.scene import orders
from tests.planner.local import scene
from tests.planner.local.scene import Site


@pytest.fixture
async def there() -> AsyncIterator[Site]:
    """A launcher with two prefill and three decode workers."""
    async with scene.site() as opened:
        yield opened


@pytest.fixture
async def target(there: Site) -> AsyncIterator[Local]:
    """A target that orders there."""
    opened = scene.target(there)
    yield opened
    await opened.close()


def turned(decision: Decision, source: Phase, count: int = 1) -> Decision:
    """A decision that turns workers first."""
    return replace(decision, flips=(Flip(kind="default", source=source, worker_count=count),))


async def test_a_turn_and_sizes_are_one_order(there: Site, target: Local) -> None:
    """The worker is turned, not let go and started; sizes hold after that."""
    await target.pools()
    outcome = await target.carry_out(turned(orders(1, 5), Phase.PREFILL))
    assert there.gang.told == ["turn worker-0 to decode", "hire worker-5 for decode"]
    assert outcome.done == ("1 prefill turned to decode", "prefill: 2 → 1", "decode: 3 → 5")
    starting = {pool.phase: len(pool.starting_s) for pool in await target.pools()}
    assert starting == {Phase.PREFILL: 0, Phase.DECODE: 1}


async def test_who_goes_is_the_idlest(there: Site, target: Local) -> None:
    """A drain then is shortest; what drains is no worker that is there."""
    there.gang.sequences = {"worker-2": 4, "worker-3": 1, "worker-4": 2}
    await target.pools()
    await target.carry_out(orders(2, 2))
    assert there.gang.told == ["dismiss worker-3"]
    pool = {pool.phase: pool for pool in await target.pools()}[Phase.DECODE]
    assert (pool.ready_count, pool.draining_count) == (2, 1)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(LaunchOrder(sizes={Phase.PREFILL: 3}), id="size"),
        pytest.param(LaunchOrder(holds={Phase.PREFILL: True}), id="hold"),
        pytest.param(LaunchOrder(roles={"worker-0": (Phase.DECODE,)}), id="role"),
    ],
)
async def test_whoever_changed_the_pools_in_between_wins(
    there: Site, target: Local, change: LaunchOrder
) -> None:
    """Nothing of an outdated decision is done; the next look sees what the person did."""
    await target.pools()
    there.launcher.obey(change)
    told = list(there.gang.told)
    outcome = await target.carry_out(turned(orders(1, 6), Phase.PREFILL))
    assert there.gang.told == told
    assert "changed by somebody else" in outcome.left[0]
    await target.pools()
    assert (await target.carry_out(orders(2, 6))).done


async def test_a_worker_that_died_for_good_outdates_a_decision(there: Site, target: Local) -> None:
    """It was made for a pool of another size."""
    await target.pools()
    there.roster.gone("worker-4")
    assert not (await target.carry_out(orders(2, 4))).done


async def test_a_held_pool_is_never_written(there: Site, target: Local) -> None:
    """The other one is, and nobody is turned into or out of the held one."""
    there.launcher.obey(LaunchOrder(holds={Phase.PREFILL: True}))
    assert [pool.is_held for pool in await target.pools()] == [True, False]
    outcome = await target.carry_out(turned(orders(4, 4), Phase.DECODE))
    assert outcome.left == ("prefill is held by hand",)
    assert there.gang.told == ["hire worker-5 for decode"]


async def test_an_order_that_cannot_be_is_refused_as_a_whole(there: Site, target: Local) -> None:
    """More turns than workers: nothing happens, and it is said."""
    await target.pools()
    with pytest.raises(TargetUnavailable, match="2 are ready"):
        await target.carry_out(turned(orders(0, 6), Phase.PREFILL, 5))
    assert not there.gang.told


async def test_a_launcher_that_is_gone_is_an_unavailable_target(there: Site) -> None:
    """Without an answer nothing is known, and nothing is raised but that."""
    lost = Local(LocalSettings(url="http://127.0.0.1:1"))
    with pytest.raises(TargetUnavailable, match="does not answer"):
        await lost.pools()
    await lost.close()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "no order"),
        (b'{"sizes":{"prefil":1}}', "no order"),
        (b'{"sizes":{"prefill":-1}}', "cannot have"),
        (b'{"roles":{"worker-9":["decode"]}}', "no worker worker-9"),
        (b'{"roles":{"worker-0":[]}}', "must keep a phase"),
    ],
)
async def test_what_is_no_order_is_refused_in_words(there: Site, body: bytes, said: str) -> None:
    """The port answers 400 and nothing happens."""
    async with httpx.AsyncClient(base_url=there.url) as http:
        answer = await http.put("/pools", content=body)
        assert (answer.status_code, said in answer.text) == (400, True)
        assert (await http.put("/elsewhere", content=b"{}")).status_code == 404
    assert not there.gang.told
