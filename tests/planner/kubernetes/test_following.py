"""Workloads are followed: what people and controllers do is seen without asking, whatever the server does."""

import asyncio
from pathlib import Path

import httpx
import pytest

from planner.observation import PoolState
from planner.targets.kubernetes.target import Kubernetes
from planner.targets.port import TargetUnavailable
from services.runtime.clock import run_virtual
from tests.planner.kubernetes.api_state import ApiState
from tests.planner.kubernetes.scene import DECODE, PREFILL, orders, played, settings
from tests.planner.kubernetes.wire import Asked, Wire


async def prefill(target: Kubernetes) -> PoolState:
    """The prefill pool as the target shows it, after all that is on its way arrived."""
    await asyncio.sleep(0.01)
    return (await target.pools())[0]


def test_edits_holds_and_readiness_are_seen_without_another_request() -> None:
    """One list and one watch per workload; what happens then comes by itself."""

    async def story(api: ApiState, wire: Wire, target: Kubernetes) -> None:
        await target.pools()
        api.edit(PREFILL, replicas=5)
        assert len((await prefill(target)).starting_s) == 3
        await asyncio.sleep(7.0)
        api.edit(PREFILL, ready=4)
        assert (await prefill(target)).ready_count == 4
        assert (await prefill(target)).starting_s[0] > 7.0
        api.edit(PREFILL, held=True)
        assert (await prefill(target)).is_held
        api.edit(PREFILL, held=False, replicas=4, ready=5)
        last = await prefill(target)
        assert (last.is_held, last.draining_count) == (False, 1)
        assert sorted(asked.is_watch for asked in wire.asked) == [False, False, True, True]

    run_virtual(played(story))


def test_a_watch_that_ends_goes_on_from_the_last_bookmark() -> None:
    """Nothing is listed again; what happened in between is told."""

    async def story(api: ApiState, wire: Wire, target: Kubernetes) -> None:
        await target.pools()
        api.lease("apis/coordination.k8s.io/v1/namespaces/llm/leases/another")  # moves versions on
        api.bookmark()
        marked = str(api.version)
        await asyncio.sleep(settings().watch_s + 0.1)
        lists = [asked for asked in wire.asked if not asked.is_watch]
        assert len(lists) == 2
        again = [asked for asked in wire.asked if asked.is_watch][2:]
        assert {asked.query["resourceVersion"] for asked in again} == {marked}
        api.edit(PREFILL, ready=1)
        assert (await prefill(target)).ready_count == 1

    run_virtual(played(story))


def test_a_version_that_the_server_forgot_is_read_anew() -> None:
    """410, within a watch: the workload is listed again and nothing is missed."""

    async def story(api: ApiState, wire: Wire, target: Kubernetes) -> None:
        await target.pools()
        wire.is_down = True
        wire.cut()
        await asyncio.sleep(0.1)
        api.edit(PREFILL, replicas=7)
        api.forget()
        wire.is_down = False
        await asyncio.sleep(30.0)
        seen = await prefill(target)
        assert seen.ready_count + len(seen.starting_s) == 7
        api.forget()
        before = len(wire.asked)
        await asyncio.sleep(settings().watch_s + 5.0)
        assert any(not asked.is_watch for asked in wire.asked[before:])
        api.edit(PREFILL, replicas=3, ready=3)
        assert (await prefill(target)).ready_count == 3

    run_virtual(played(story))


def test_a_lost_connection_takes_the_workload_out_of_sight_until_it_is_read_again() -> None:
    """What may be old is not shown: the look is blind, and the next one is not."""

    async def story(api: ApiState, wire: Wire, target: Kubernetes) -> None:
        await target.pools()
        wire.is_down = True
        wire.cut()
        await asyncio.sleep(0.1)
        with pytest.raises(TargetUnavailable, match="baton-prefill"):
            await target.pools()
        wire.is_down = False
        api.edit(PREFILL, ready=1)
        await asyncio.sleep(20.0)
        assert (await prefill(target)).ready_count == 1

    run_virtual(played(story))


def test_a_workload_that_is_deleted_is_out_of_sight_and_comes_back() -> None:
    """A planner never acts on what is not there."""

    async def story(api: ApiState, wire: Wire, target: Kubernetes) -> None:
        await target.pools()
        api.delete(PREFILL)
        await asyncio.sleep(0.1)
        with pytest.raises(TargetUnavailable, match="deleted"):
            await target.pools()
        api.workload(PREFILL, 1)
        assert (await prefill(target)).ready_count == 1
        assert not wire.writes

    run_virtual(played(story))


def test_a_workload_that_never_was_is_said() -> None:
    """By its name."""

    async def story(api: ApiState, _wire: Wire, target: Kubernetes) -> None:
        api.delete(DECODE)
        with pytest.raises(TargetUnavailable, match="baton-decode: there is no such workload"):
            await target.pools()

    run_virtual(played(story))


def test_a_server_that_asks_to_wait_is_given_the_time() -> None:
    """429 with its own pause, 5xx and lost answers with ours; a refusal is not tried again at once."""

    async def story(_api: ApiState, wire: Wire, target: Kubernetes) -> None:
        wire.faults = [(429, {"Retry-After": "3"}), (503, {})]
        began_s = asyncio.get_running_loop().time()
        await target.pools()
        took_s = asyncio.get_running_loop().time() - began_s
        assert 3.0 <= took_s < 4.0

    run_virtual(played(story))


def test_a_write_whose_answer_is_lost_is_not_done_twice() -> None:
    """The second try is refused by its version, and the watch tells what became of the first."""

    async def story(api: ApiState, wire: Wire, target: Kubernetes) -> None:
        await target.pools()

        async def lose_the_answer(asked: Asked) -> None:
            if asked.method == "PUT" and len(wire.writes) == 1:
                api.ask("PUT", asked.path, asked.token, {}, asked.body)
                wire.faults = [httpx.ReadTimeout("no answer")]

        wire.before = lose_the_answer
        await target.carry_out(orders(4, 3))
        assert api.objects[PREFILL]["spec"]["replicas"] == 4
        assert not (await target.carry_out(orders(4, 3))).done
        assert len((await prefill(target)).starting_s) == 2

    run_virtual(played(story))


def test_requests_keep_to_the_rate() -> None:
    """A storm of refused watches is sent no faster than the settings allow."""

    async def story(_api: ApiState, wire: Wire, target: Kubernetes) -> None:
        await target.pools()
        wire.faults = [(403, {})] * 1000
        wire.cut()
        await asyncio.sleep(60.0)
        assert len(wire.asked) < settings().requests_burst + 60.0 * settings().requests_per_s
        assert len(wire.asked) < 40, "pauses grow while the server refuses"

    run_virtual(played(story))


def test_a_replaced_token_is_used_at_once(tmp_path: Path) -> None:
    """Kubernetes replaces the file; a request that was refused for the old one is tried with the new."""
    file = tmp_path / "token"
    file.write_text("old\n", encoding="utf-8")

    async def story(api: ApiState, wire: Wire, target: Kubernetes) -> None:
        api.tokens = {"Bearer old"}
        await target.pools()

        async def replace(asked: Asked) -> None:
            if asked.method == "PUT" and not api.tokens & {"Bearer new"}:
                api.tokens = {"Bearer new"}  # this one was sent with the old one
                file.write_text("new\n", encoding="utf-8")

        wire.before = replace
        assert (await target.carry_out(orders(4, 3))).done
        assert [asked.token for asked in wire.asked if asked.method == "PUT"] == ["Bearer old", "Bearer new"]

    run_virtual(played(story, settings(token_file=file)))


def test_a_token_that_cannot_be_read_is_a_blind_look(tmp_path: Path) -> None:
    """It is looked for again with the next request."""
    file = tmp_path / "token"
    file.mkdir()

    async def story(_api: ApiState, wire: Wire, target: Kubernetes) -> None:
        with pytest.raises(TargetUnavailable, match="the token cannot be read"):
            await target.pools()
        file.rmdir()
        file.write_text("new\n", encoding="utf-8")
        await asyncio.sleep(settings().retry_s * 4)
        await target.pools()
        assert wire.asked[-1].token == "Bearer new"

    run_virtual(played(story, settings(token_file=file)))


def test_a_fault_of_ours_ends_the_planner_instead_of_showing_what_is_old() -> None:
    """Whatever ends the following of a workload is raised by the next look."""

    async def story(_api: ApiState, wire: Wire, target: Kubernetes) -> None:
        await target.pools()
        wire.faults = [RuntimeError("a mistake of ours")]
        wire.cut()
        await asyncio.sleep(1.0)
        with pytest.raises(RuntimeError, match="a mistake of ours"):
            await target.pools()

    run_virtual(played(story))
