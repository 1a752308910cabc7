"""What every scale target promises, and what Kubernetes does when others write, hold or fail."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from planner.decision import Decision, PoolOrder
from planner.observation import PoolState
from planner.process_settings import KubernetesSettings, WorkloadSettings
from planner.targets.dry_run import DryRun
from planner.targets.kubernetes import HOLD_ANNOTATION, Kubernetes
from planner.targets.port import Target, TargetUnavailable
from services.domain.errors import ConfigurationInvalid
from services.domain.worker import Phase
from tests.planner.api_server import ApiServer, Workload
from tests.planner.situations import pools

PREFILL = "apis/apps/v1/namespaces/llm/deployments/baton-prefill"
DECODE = "apis/leaderworkerset.x-k8s.io/v1/namespaces/llm/leaderworkersets/baton-decode"


def orders(prefill: int, decode: int) -> Decision:
    """A decision for both pools."""
    return Decision(
        orders=(
            PoolOrder(phase=Phase.PREFILL, kind="default", worker_count=prefill),
            PoolOrder(phase=Phase.DECODE, kind="default", worker_count=decode),
        ),
        look_s=10.0,
    )


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """An API server with both pools."""
    api = ApiServer({PREFILL: Workload(replicas=2, ready=2), DECODE: Workload(replicas=3, ready=3)})
    yield api
    api.close()


@pytest.fixture
async def kubernetes(server: ApiServer, tmp_path: Path) -> AsyncIterator[Kubernetes]:
    """A target on that server."""
    token = tmp_path / "token"
    token.write_text("of-the-account\n", encoding="utf-8")
    target = Kubernetes(
        KubernetesSettings(
            namespace="llm",
            workloads=(
                WorkloadSettings(phase=Phase.PREFILL, name="baton-prefill"),
                WorkloadSettings(phase=Phase.DECODE, name="baton-decode", resource="leaderworkerset"),
            ),
            api_url=server.url,
            token_file=str(token),
            ca_file=str(tmp_path / "none"),
            retry_s=0.01,
            tries_max=3,
        ),
        now_s=lambda: 100.0,
    )
    yield target
    await target.close()


@pytest.fixture
def dry_run() -> DryRun:
    """A target that does nothing."""

    async def shown() -> tuple[PoolState, ...]:
        return pools(2, 3)

    return DryRun(shown)


@pytest.fixture(params=["dry_run", "kubernetes"])
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


async def test_a_size_is_written_with_the_accounts_token(kubernetes: Kubernetes, server: ApiServer) -> None:
    """Each workload by its own path, deployment and leader worker set alike."""
    await kubernetes.pools()
    outcome = await kubernetes.carry_out(orders(4, 2))
    assert server.writes == [(PREFILL, 4), (DECODE, 2)]
    assert outcome.done == ("baton-prefill: 2 → 4", "baton-decode: 3 → 2")
    assert set(server.tokens) == {"Bearer of-the-account"}
    starting = {pool.phase: len(pool.starting_s) for pool in await kubernetes.pools()}
    assert starting[Phase.PREFILL] == 2


async def test_a_held_workload_is_never_written(kubernetes: Kubernetes, server: ApiServer) -> None:
    """The annotation of a person stands above every decision."""
    server.workloads[PREFILL].annotations[HOLD_ANNOTATION] = "true"
    seen = await kubernetes.pools()
    assert [pool.is_held for pool in seen] == [True, False]
    outcome = await kubernetes.carry_out(orders(5, 3))
    assert not server.writes
    assert HOLD_ANNOTATION in outcome.left[0]


def edit(server: ApiServer, *, replicas: int | None = None) -> None:
    """Let a person change the prefill workload."""
    workload = server.workloads[PREFILL]
    workload.replicas = workload.replicas if replicas is None else replicas
    workload.version += 1


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda server: edit(server, replicas=9), id="before the write"),
        pytest.param(
            lambda server: setattr(server, "on_scale_read", lambda: edit(server)), id="during the write"
        ),
    ],
)
async def test_whoever_changed_a_workload_in_between_wins(
    kubernetes: Kubernetes, server: ApiServer, change: Callable[[ApiServer], None]
) -> None:
    """A stale read writes nothing; the next look sees what the person did."""
    await kubernetes.pools()
    change(server)
    before = server.workloads[PREFILL].replicas
    outcome = await kubernetes.carry_out(orders(4, 3))
    assert not server.writes
    assert server.workloads[PREFILL].replicas == before
    assert "changed by somebody else" in outcome.left[0]


async def test_a_server_that_asks_to_wait_is_asked_again(kubernetes: Kubernetes, server: ApiServer) -> None:
    """429 and 5xx are tried again, as often as the settings allow."""
    server.faults = [(429, {"Retry-After": "0"}), (503, {})]
    assert ready(await kubernetes.pools()) == {Phase.PREFILL: 2, Phase.DECODE: 3}


@pytest.mark.parametrize("faults", [[(503, {})] * 3, [(403, {})], [(404, {})]])
async def test_a_server_that_refuses_is_an_unavailable_target(
    kubernetes: Kubernetes, server: ApiServer, faults: list[tuple[int, dict[str, str]]]
) -> None:
    """Tries are bounded, and a refusal is not tried again."""
    server.faults = list(faults)
    with pytest.raises(TargetUnavailable):
        await kubernetes.pools()
    assert not server.faults


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
