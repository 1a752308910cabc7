"""The rights at the Kubernetes API: what the planner's requests need, for its own pools, and nothing else."""

import re
from pathlib import Path

import httpx
import pytest

from planner.decision import Decision, PoolOrder
from planner.process_settings import PlannerProcessSettings
from planner.targets.kubernetes.settings import KubernetesSettings
from planner.targets.kubernetes.target import Kubernetes
from services.runtime.clock import LoopClock
from services.runtime.settings import parse, read_yaml
from tests.helm.chart import VALUES, Manifest, config_of, merged, pods, render, rendered, values_of
from tests.helm.kubelet import SETTINGS
from tests.planner.kubernetes.api_state import ApiState
from tests.planner.kubernetes.pair import settled
from tests.planner.kubernetes.wire import Wire

_PATH = re.compile(
    r"^/apis/(?P<group>[^/]+)/v1/namespaces/(?P<namespace>[^/]+)"
    r"/(?P<resource>[^/]+)(/(?P<name>[^/]+)(?P<scale>/scale)?)?$"
)
_VERBS = {"GET": "get", "PUT": "update", "PATCH": "patch", "POST": "create", "DELETE": "delete"}
"""Verbs of the API by method, for requests that name one object."""

Right = tuple[str, str, str, str]
"""Group, resource, name, verb."""


class Observed(Wire):
    """Keeps the rights that requests need, as the API server's authorizer reads them."""

    def __init__(self, state: ApiState) -> None:
        super().__init__(state)
        self.used: set[Right] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry one request."""
        found = _PATH.match(request.url.path)
        assert found is not None, request.url
        assert found["namespace"] == "serving"
        verb, name = _VERBS[request.method], found["name"]
        if name is None:  # a collection: the one name that a field selector asks for
            verb = "watch" if "watch" in request.url.params else "list"
            name = request.url.params["fieldSelector"].removeprefix("metadata.name=")
        self.used.add((found["group"], found["resource"] + (found["scale"] or ""), name, verb))
        return await super().handle_async_request(request)


def _granted(role: Manifest) -> set[Right]:
    return {
        (group, resource, name, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule["resourceNames"]
        for verb in rule["verbs"]
    }


PLANNED = ("production", "two-machines")
"""Values files with a planner."""


@pytest.mark.parametrize("name", [name for name in VALUES if name not in PLANNED])
def test_without_a_planner_nobody_has_rights(name: str) -> None:
    """No role, no binding."""
    kinds = {manifest["kind"] for manifest in rendered(name)}
    assert not kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}


@pytest.mark.parametrize("name", PLANNED)
async def test_the_planner_has_the_rights_that_it_uses(name: str, tmp_path: Path) -> None:
    """Each request of its scale target is granted, and each grant is used, all by one account."""
    manifests = rendered(name)
    (role,) = [m for m in manifests if m["kind"] in ("Role", "ClusterRole")]
    (binding,) = [m for m in manifests if m["kind"] in ("RoleBinding", "ClusterRoleBinding")]
    (pod,) = [p for p in pods(manifests) if p.owner == "Deployment/baton-planner"]
    assert (role["kind"], binding["roleRef"]["name"]) == ("Role", role["metadata"]["name"])
    assert [s["name"] for s in binding["subjects"]] == [pod.template["spec"]["serviceAccountName"]]

    file = tmp_path / "planner.json"
    file.write_text(config_of(manifests, pod, SETTINGS)["planner.json"], encoding="utf-8")
    settings = parse(PlannerProcessSettings, read_yaml(file), source="chart").target
    assert isinstance(settings, KubernetesSettings)
    state = ApiState()
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "Lease", "LeaderWorkerSet"):
            kind, group = manifest["kind"].lower(), manifest["apiVersion"]
            path = f"apis/{group}/namespaces/serving/{kind}s/{manifest['metadata']['name']}"
            state.lease(path) if kind == "lease" else state.workload(path, 2)
    wire = Observed(state)
    target = Kubernetes(settings, now_s=LoopClock().now_s, client=wire.client())
    assert {pool.phase.value for pool in await target.pools()} == {"prefill", "decode"}
    orders = tuple(PoolOrder(phase=w.phase, kind=w.kind, worker_count=3) for w in settings.workloads)
    await settled()
    outcome = await target.carry_out(Decision(orders=orders, look_s=10.0))
    await target.close()
    assert len(outcome.done) == len(orders)
    assert wire.used == _granted(role)


def test_the_planner_scales_what_the_chart_does_not() -> None:
    """Pools that are planned say no size of their own, or each upgrade would undo the planner's."""
    manifests = rendered("production")
    sizes = {m["metadata"]["name"]: "replicas" in m["spec"] for m in manifests if m["kind"] == "Deployment"}
    assert not sizes["baton-prefill"]
    assert not sizes["baton-decode"]
    assert sizes["baton-gateway"]


def test_workers_turn_only_where_values_say_so(tmp_path: Path) -> None:
    """By default pools may have unlike machines; with flips the planner is given the bus to order over."""

    def settings(changes: dict[str, object]) -> PlannerProcessSettings:
        manifests = render(merged(values_of("production"), {"planner": {"settings": changes}}))
        (pod,) = [p for p in pods(manifests) if p.owner == "Deployment/baton-planner"]
        file = tmp_path / "planner.json"
        file.write_text(config_of(manifests, pod, SETTINGS)["planner.json"], encoding="utf-8")
        return parse(PlannerProcessSettings, read_yaml(file), source="chart")

    still, turning = settings({}), settings({"limits": {"flips": True}})
    assert not still.planner.limits.flips
    assert still.worker_bus is None
    assert turning.planner.limits.flips
    assert turning.planner.limits.decode.workers_max == still.planner.limits.decode.workers_max
    assert turning.worker_bus is not None
    assert turning.worker_bus.url.startswith("tls://")
