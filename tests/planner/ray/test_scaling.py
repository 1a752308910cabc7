"""The planner on Ray Serve: sizes are written, holds and people's changes respected, faults survived."""

from collections.abc import Callable
from pathlib import Path

import pytest

from planner.decision import Decision, Flip
from planner.process_settings import PlannerProcessSettings
from planner.settings import LimitSettings, PlannerSettings
from planner.targets.port import TargetUnavailable
from planner.targets.ray import RayServe
from planner.targets.ray_settings import DeploymentSettings, RayServeSettings
from services.domain.errors import ConfigurationInvalid
from services.domain.worker import Phase
from tests.planner.kubernetes.scene import orders
from tests.planner.ray.scene import DECODE, PREFILL
from tests.planner.ray.serve_server import TOKEN, ServeServer


async def test_replicas_are_told_apart_by_what_they_do(target: RayServe, serve: ServeServer) -> None:
    """Serving ones are ready, missing ones on their way, stopping ones neither."""
    prefill, decode = serve.applications[PREFILL], serve.applications[DECODE]
    prefill.size, prefill.states = 4, ["RUNNING", "STARTING", "PENDING_MIGRATION", "UPDATING"]
    decode.size, decode.states = 1, ["RUNNING", "RUNNING", "STOPPING"]
    seen = {pool.phase: pool for pool in await target.pools()}
    assert (seen[Phase.PREFILL].ready_count, len(seen[Phase.PREFILL].starting_s)) == (2, 2)
    assert (seen[Phase.DECODE].ready_count, seen[Phase.DECODE].draining_count) == (1, 2)


async def test_each_pool_is_written_by_its_own_path(target: RayServe, serve: ServeServer) -> None:
    """One write per changed pool; what was ordered is missed until it serves."""
    await target.pools()
    outcome = await target.carry_out(orders(4, 2))
    assert serve.writes == [(PREFILL, 4), (DECODE, 2)]
    assert outcome.done == (f"{PREFILL}: 2 → 4", f"{DECODE}: 3 → 2")
    starting = {pool.phase: len(pool.starting_s) for pool in await target.pools()}
    assert starting == {Phase.PREFILL: 2, Phase.DECODE: 0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda serve: setattr(serve.applications[PREFILL], "size", 9), "changed by somebody else"),
        (lambda serve: setattr(serve.applications[PREFILL], "is_open", False), "is held"),
        (
            lambda serve: setattr(
                serve, "on_read", lambda: setattr(serve.applications[PREFILL], "is_open", False)
            ),
            "is held",
        ),
    ],
    ids=["size before the write", "hold before the write", "hold during the write"],
)
async def test_a_person_wins(
    target: RayServe, serve: ServeServer, change: Callable[[ServeServer], None], words: str
) -> None:
    """What a person did since the look is not written over, and said."""
    await target.pools()
    change(serve)
    before = serve.applications[PREFILL].size
    outcome = await target.carry_out(orders(4, 3))
    assert not serve.writes
    assert serve.applications[PREFILL].size == before
    assert words in outcome.left[0]


async def test_a_hold_is_seen(target: RayServe, serve: ServeServer) -> None:
    """A held pool is told as one, so that the planner plans around it."""
    serve.applications[DECODE].is_open = False
    assert [pool.is_held for pool in await target.pools()] == [False, True]


@pytest.mark.parametrize("fault", [(429, {"Retry-After": "0"}), (503, {}), (500, {})])
async def test_a_server_that_cannot_now_is_asked_again(
    target: RayServe, serve: ServeServer, fault: tuple[int, dict[str, str]]
) -> None:
    """Reads and writes alike."""
    serve.faults = [fault]
    await target.pools()
    serve.faults = [fault, fault]
    assert (await target.carry_out(orders(4, 3))).done == (f"{PREFILL}: 2 → 4",)


@pytest.mark.parametrize("faults", [[(503, {})] * 3, [(401, {})], [(404, {})]])
async def test_a_server_that_refuses_is_an_unavailable_target(
    target: RayServe, serve: ServeServer, faults: list[tuple[int, dict[str, str]]]
) -> None:
    """Tries are bounded, and a refusal is not tried again."""
    serve.faults = list(faults)
    with pytest.raises(TargetUnavailable):
        await target.pools()
    assert not serve.faults


async def test_a_deployment_that_is_not_there_is_named(target: RayServe, serve: ServeServer) -> None:
    """As while Serve still builds its application."""
    del serve.applications[DECODE]
    with pytest.raises(TargetUnavailable, match=f"no deployment decode in {DECODE}"):
        await target.pools()


async def test_the_token_may_be_in_a_file_and_may_change(
    target: RayServe, serve: ServeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found where Ray finds it, for each request anew."""
    file = tmp_path / "token"
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    with pytest.raises(TargetUnavailable, match="401"):
        await target.pools()
    file.write_text(TOKEN + "\n", encoding="utf-8")
    assert len(await target.pools()) == 2


async def test_roles_are_left_as_they_are(target: RayServe, serve: ServeServer) -> None:
    """A flip is refused in words."""
    await target.pools()
    flip = Flip(kind="default", source=Phase.PREFILL, worker_count=1)
    outcome = await target.carry_out(Decision(orders=(), flips=(flip,), look_s=10.0))
    assert "nobody turns without a bus" in outcome.left[0]
    assert not serve.writes


def test_what_cannot_go_together_is_refused() -> None:
    """Flips, a kind that nobody described, two deployments for one pool, none at all."""
    one = DeploymentSettings(phase=Phase.DECODE, application=DECODE)
    with pytest.raises(ConfigurationInvalid, match="one per phase and kind"):
        RayServeSettings(deployments=(one, one))
    with pytest.raises(ConfigurationInvalid, match="at least one"):
        RayServeSettings(deployments=())
    with pytest.raises(ConfigurationInvalid, match="flips"):
        PlannerProcessSettings(target=RayServeSettings(deployments=(one,)))
    other = DeploymentSettings(phase=Phase.DECODE, application=DECODE, kind="h100")
    with pytest.raises(ConfigurationInvalid, match="no kind 'h100'"):
        PlannerProcessSettings(
            planner=PlannerSettings(limits=LimitSettings(flips=False)),
            target=RayServeSettings(deployments=(other,)),
        )
