"""What every scale target promises, and what Kubernetes does when others write, hold or fail."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from planner.observation import PoolState
from planner.targets.dry_run import DryRun
from planner.targets.kubernetes.following import HOLD_ANNOTATION
from planner.targets.kubernetes.settings import KubernetesSettings, WorkloadSettings
from planner.targets.kubernetes.target import Kubernetes
from planner.targets.local import Local
from planner.targets.port import Target, TargetUnavailable
from planner.targets.ray import RayServe
from services.domain.errors import ConfigurationInvalid
from services.domain.worker import Phase
from tests.planner.kubernetes import scene
from tests.planner.kubernetes.api_state import ApiState
from tests.planner.kubernetes.scene import PREFILL, orders, state
from tests.planner.kubernetes.wire import Asked, Wire
from tests.planner.local import scene as local_scene
from tests.planner.ray import scene as ray_scene
from tests.planner.ray.serve_server import TOKEN
from tests.planner.situations import pools


@pytest.fixture
def api() -> ApiState:
    """An API server with both pools."""
    return state()


@pytest.fixture
def wire(api: ApiState) -> Wire:
    """The way to it."""
    return Wire(api)


@pytest.fixture
async def kubernetes(wire: Wire) -> AsyncIterator[Kubernetes]:
    """A target on that server."""
    target = scene.target(wire)
    yield target
    await target.close()


@pytest.fixture
def dry_run() -> DryRun:
    """A target that does nothing."""

    async def shown() -> tuple[PoolState, ...]:
        return pools(2, 3)

    return DryRun(shown)


@pytest.fixture
async def ray_serve(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RayServe]:
    """A target on Ray Serve."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    serve = ray_scene.server()
    target = ray_scene.target(serve)
    yield target
    await target.close()
    serve.close()


@pytest.fixture
async def local() -> AsyncIterator[Local]:
    """A target on this machine."""
    async with local_scene.site() as there:
        target = local_scene.target(there)
        yield target
        await target.close()


@pytest.fixture(params=["dry_run", "kubernetes", "local", "ray_serve"])
def target(request: pytest.FixtureRequest) -> Target:
    """Every target, with two prefill and three decode workers."""
    found: Target = request.getfixturevalue(request.param)
    return found


def ready(state: tuple[PoolState, ...]) -> dict[Phase, int]:
    """Ready workers by role."""
    return {pool.phase: pool.ready_count for pool in state}


async def test_pools_are_read_as_they_are(target: Target) -> None:
    """Both roles, with their workers."""
    assert ready(await target.pools()) == {Phase.PREFILL: 2, Phase.DECODE: 3}


async def test_an_order_for_what_is_there_does_nothing(target: Target) -> None:
    """No write, no word."""
    await target.pools()
    outcome = await target.carry_out(orders(2, 3))
    assert not outcome.done
    assert not outcome.left


async def test_the_same_order_twice_has_the_effect_of_once(target: Target) -> None:
    """After another look the second order finds nothing left to do, or says again what it would do."""
    await target.pools()
    first = await target.carry_out(orders(4, 3))
    await target.pools()
    second = await target.carry_out(orders(4, 3))
    assert len(first.done) + len(first.left) == 1
    assert not second.done


async def test_closing_twice_is_closing_once(target: Target) -> None:
    """Nothing is raised."""
    await target.close()
    await target.close()


async def test_a_size_is_written_to_each_workload_by_its_own_path(kubernetes: Kubernetes, wire: Wire) -> None:
    """Deployment and leader worker set alike; what was ordered is missed until it is ready."""
    await kubernetes.pools()
    outcome = await kubernetes.carry_out(orders(4, 2))
    assert wire.writes == [("baton-prefill", 4), ("baton-decode", 2)]
    assert outcome.done == ("baton-prefill: 2 → 4", "baton-decode: 3 → 2")
    starting = {pool.phase: len(pool.starting_s) for pool in await kubernetes.pools()}
    assert starting[Phase.PREFILL] == 2


async def test_a_held_workload_is_never_written(kubernetes: Kubernetes, api: ApiState, wire: Wire) -> None:
    """The annotation of a person stands above every decision."""
    api.edit(PREFILL, held=True)
    seen = await kubernetes.pools()
    assert [pool.is_held for pool in seen] == [True, False]
    outcome = await kubernetes.carry_out(orders(5, 3))
    assert not wire.writes
    assert HOLD_ANNOTATION in outcome.left[0]


CHANGES: dict[str, tuple[Callable[[ApiState], None], str]] = {
    "size": (lambda api: api.edit(PREFILL, replicas=9), "changed by somebody else"),
    "hold": (lambda api: api.edit(PREFILL, held=True), HOLD_ANNOTATION),
}
"""What a person does between look and write, and what the planner says of it."""


@pytest.mark.parametrize("moment", ["before the write", "during the write"])
@pytest.mark.parametrize("change", CHANGES)
async def test_whoever_changed_a_workload_in_between_wins(
    kubernetes: Kubernetes, api: ApiState, wire: Wire, change: str, moment: str
) -> None:
    """A size or a hold that was not known when the decision was made stops its write."""
    await kubernetes.pools()
    edit, said = CHANGES[change]

    async def interfere(asked: Asked) -> None:
        if asked.method == "PUT" and len(wire.writes) == 1:
            edit(api)

    if moment == "before the write":
        edit(api)
    else:
        wire.before = interfere
    outcome = await kubernetes.carry_out(orders(4, 3))
    assert api.objects[PREFILL]["spec"]["replicas"] != 4
    assert said in outcome.left[0]


async def test_a_status_that_changes_during_the_write_does_not_stop_it(
    kubernetes: Kubernetes, api: ApiState, wire: Wire
) -> None:
    """The write is refused for its version, and made again when the watch told of the new one."""
    await kubernetes.pools()

    async def interfere(asked: Asked) -> None:
        if asked.method == "PUT" and len(wire.writes) == 1:
            api.edit(PREFILL, ready=1)

    wire.before = interfere
    assert (await kubernetes.carry_out(orders(4, 3))).done == ("baton-prefill: 2 → 4",)
    assert len(wire.writes) == 2


@pytest.mark.parametrize("fault", [403, 404])
async def test_a_server_that_refuses_is_an_unavailable_target(
    kubernetes: Kubernetes, wire: Wire, fault: int
) -> None:
    """A refusal is not tried again."""
    await kubernetes.pools()
    wire.faults = [(fault, {})]
    with pytest.raises(TargetUnavailable, match=str(fault)):
        await kubernetes.carry_out(orders(4, 3))
    assert not wire.faults


async def test_the_accounts_authorities_are_trusted_and_no_others(tmp_path: Path) -> None:
    """A file that is there is read at the start; one that holds no certificate refuses it."""
    wrong = tmp_path / "ca.crt"
    wrong.write_text("no certificate", encoding="utf-8")
    settings = KubernetesSettings(
        namespace="llm",
        workloads=(WorkloadSettings(phase=Phase.PREFILL, name="baton-prefill"),),
        ca_file=str(wrong),
    )
    with pytest.raises(ConfigurationInvalid, match="ca_file"):
        Kubernetes(settings, now_s=lambda: 0.0)


async def test_a_dry_run_says_what_it_would_do(dry_run: DryRun) -> None:
    """In words, and nothing else."""
    await dry_run.pools()
    assert (await dry_run.carry_out(orders(4, 3))).left == ("would set prefill (default) to 4",)
