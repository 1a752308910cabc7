"""Of several planners one acts: the holder of the lease, and only while it can show that it holds it."""

import asyncio

import httpx
import pytest

from planner.targets.kubernetes.election import Sighting, fold, may_take
from planner.targets.kubernetes.objects import LeaseSpec
from planner.targets.kubernetes.settings import LeaseSettings
from services.domain.errors import ConfigurationInvalid
from services.runtime.clock import run_virtual
from tests.planner.kubernetes import scene
from tests.planner.kubernetes.pair import TERMS, begun, named
from tests.planner.kubernetes.scene import LEASE, PREFILL
from tests.planner.kubernetes.wire import Asked, Wire


def test_one_of_two_acts_and_the_other_says_who_leads() -> None:
    """The lease is written by one; labels of the chart stay."""

    async def story() -> None:
        pair = await begun()
        assert not await pair.act(0, 4)
        assert await pair.act(1, 9) == (
            "baton-prefill is left alone: this planner holds no lease, first does",
        )
        assert pair.wires[0].writes == [("baton-prefill", 4)]
        assert not pair.wires[1].writes
        assert pair.api.objects[LEASE]["metadata"]["labels"] == {"of": "chart"}
        await asyncio.sleep(120.0)
        assert pair.holder == "first"
        await pair.close()

    run_virtual(story())


def test_a_planner_that_stops_hands_over_at_once_and_one_that_dies_after_the_lease() -> None:
    """Released: taken at the next look. Not released: taken when the lease ran out."""

    async def story() -> None:
        pair = await begun()
        await pair.targets[0].close()
        assert pair.holder == ""
        await asyncio.sleep(TERMS.retry_s + 0.1)
        assert pair.holder == "second"
        assert pair.api.objects[LEASE]["spec"]["leaseTransitions"] == 2
        pair.wires[1].is_down = True
        third = scene.target(Wire(pair.api), scene.settings(lease=named("third")))
        await third.pools()
        await asyncio.sleep(TERMS.lease_s - TERMS.retry_s)
        assert pair.holder == "second"
        await asyncio.sleep(2 * TERMS.retry_s + 0.1)
        assert pair.holder == "third"
        await third.close()
        await pair.close()

    run_virtual(story())


def test_a_holder_that_cannot_renew_stops_before_anybody_else_begins() -> None:
    """Lease requests alone fail: it still sees and could write, and does not."""

    async def story() -> None:
        pair = await begun()

        async def refuse_the_lease(asked: Asked) -> None:
            if asked.path == LEASE:
                raise httpx.ConnectError("down")

        pair.wires[0].before = refuse_the_lease
        await asyncio.sleep(TERMS.renew_within_s + 0.1)
        assert pair.holder == "first"
        assert "left alone" in (await pair.act(0, 4))[0]
        assert "left alone" in (await pair.act(1, 4))[0]
        await asyncio.sleep(TERMS.lease_s)
        assert not await pair.act(1, 4)
        assert "left alone" in (await pair.act(0, 7))[0]
        await pair.close()

    run_virtual(story())


@pytest.mark.parametrize("loss", ["stolen", "deleted"])
def test_a_lost_lease_ends_acting(loss: str) -> None:
    """Taken by somebody, or deleted by somebody: noticed at the next renewal, at the latest when it ends."""

    async def story() -> None:
        pair = await begun()
        await pair.targets[1].close()
        if loss == "stolen":
            pair.api.ask(
                "PATCH",
                LEASE,
                "",
                {},
                {"metadata": {}, "spec": {"holderIdentity": "x", "leaseDurationSeconds": 60}},
            )
            await asyncio.sleep(TERMS.retry_s + 0.1)
        else:
            pair.api.delete(LEASE)
            await asyncio.sleep(TERMS.renew_within_s + 0.1)
        assert "left alone" in (await pair.act(0, 4))[0]
        assert not pair.wires[0].writes
        await pair.close()

    run_virtual(story())


def test_a_write_in_flight_is_given_up_with_the_lease() -> None:
    """The server hangs, the lease runs out meanwhile: the write is not waited for, nor tried again."""

    async def story() -> None:
        pair = await begun()

        async def hang(asked: Asked) -> None:
            if asked.path == LEASE:
                raise httpx.ConnectError("down")
            if asked.method == "PUT":
                await asyncio.sleep(1000.0)

        pair.wires[0].before = hang
        assert "left alone" in (await pair.act(0, 4))[0]
        assert asyncio.get_running_loop().time() < TERMS.lease_s
        assert pair.api.objects[PREFILL]["spec"]["replicas"] == 2
        await pair.close()

    run_virtual(story())


@pytest.mark.parametrize(
    ("key", "terms"),
    [("renew_within_s", {"renew_within_s": 15.0}), ("retry_s", {"retry_s": 10.0})],
)
def test_terms_under_which_two_could_lead_refuse_the_start(key: str, terms: dict[str, float]) -> None:
    """The key is named."""
    with pytest.raises(ConfigurationInvalid, match=key):
        LeaseSettings(name="x", **terms)  # type: ignore[arg-type]


def test_a_lease_is_free_when_it_did_not_change_for_its_duration_by_ones_own_clock() -> None:
    """What the holder's clock says does not matter."""
    spec = LeaseSpec(holder_identity="other", lease_duration_seconds=15, renew_time="1970-01-01T00:00:00.0Z")
    seen = fold(None, spec, 100.0)
    assert fold(seen, spec, 114.0) is seen
    assert not may_take(seen, "me", 114.9)
    assert may_take(seen, "me", 115.0)
    assert may_take(seen, "other", 100.0)
    assert may_take(Sighting(spec=LeaseSpec(), since_s=100.0), "me", 100.0)
