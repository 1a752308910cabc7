"""The planner's target and the chart's objects on a real kube-apiserver; figures, and recordings for tests.

    python -m tests.bench.bench_kube_apiserver --kube-apiserver PATH --etcd PATH [--record]

Comes in: both programs. Goes out: what each step showed, and how fast a person's edit is seen; with
`--record` also `tests/planner/kubernetes/recorded.json`. Without the programs it says so and does nothing.
Invariant: the planner acts with the service account, the Role and the Lease that the chart renders; a step
that fails ends it.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from planner.decision import Decision, PoolOrder
from planner.process_settings import PlannerProcessSettings
from planner.targets.kubernetes.settings import KubernetesSettings, LeaseSettings, WorkloadSettings
from planner.targets.kubernetes.target import Kubernetes
from planner.targets.port import Outcome, TargetUnavailable
from services.domain.worker import Phase
from services.runtime.clock import LoopClock
from services.runtime.settings import parse
from tests.bench.kube_apiserver import KubeApiServer, serving
from tests.helm.chart import NAMESPACE, RELEASE, Manifest, rendered
from tests.helm.planned import PLANNER, Api, manifests, playing
from tests.helm.planned import story as living_story
from tests.planner.kubernetes.probes import DEPLOYMENTS, LEASES, Probes

RECORDED = Path(__file__).parents[1] / "planner" / "kubernetes" / "recorded.json"
PREFILL = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/baton-prefill"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/baton-planner"
MERGE = {"Content-Type": "application/merge-patch+json"}
EDITS = 100
"""Edits whose way to the planner is timed."""


def say(text: str) -> None:
    """Tell a step."""
    print(text, flush=True)


async def record(server: KubeApiServer, named: str) -> None:
    """Ask the probes and keep the answers."""
    client = server.client
    await client.post("/api/v1/namespaces", json={"metadata": {"name": "llm"}})
    labels = {"matchLabels": {"of": "probe"}}
    pod = {"metadata": {"labels": {"of": "probe"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
    made = {"metadata": {"name": "probe"}, "spec": {"replicas": 2, "selector": labels, "template": pod}}
    (await client.post(DEPLOYMENTS, json=made)).raise_for_status()
    lease = {"metadata": {"name": "probe", "labels": {"of": "chart"}}}
    (await client.post(LEASES, json=lease)).raise_for_status()
    server.stop("api")  # with it goes what it remembers: a watch from long ago is then refused
    await server.start()
    kept = {"server": named, "answers": await Probes(client).run()}
    RECORDED.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    say(f"recorded {len(kept['answers'])} answers of {kept['server']}")


async def install(server: KubeApiServer) -> PlannerProcessSettings:
    """Make the chart's objects; returns the planner's own settings."""
    await server.client.post("/api/v1/namespaces", json={"metadata": {"name": NAMESPACE}})
    manifests = rendered("production")
    accounts = [m for m in manifests if m["kind"] in ("ServiceAccount", "PriorityClass")]
    refused: list[str] = []
    for manifest in [*accounts, *(m for m in manifests if m not in accounts)]:
        answer = await server.make(manifest, NAMESPACE)
        if not answer.is_success:
            said = "has no such kind" if answer.status_code == 404 else answer.json()["message"]
            refused.append(f"{manifest['kind']} {manifest['metadata']['name']}: {said}")
    say(f"made {len(manifests) - len(refused)} of {len(manifests)} objects of production.yaml")
    for line in refused:
        say(f"  not made: {line}")
    (config,) = [m for m in manifests if "planner.json" in m.get("data", {})]
    settings: Any = json.loads(config["data"]["planner.json"])
    return parse(PlannerProcessSettings, settings, source="chart")


async def planner_of(
    server: KubeApiServer, chosen: KubernetesSettings, name: str, folder: Path
) -> Kubernetes:
    """Make a target with the chart's account, as the pod `name`."""
    token = folder / f"{name}.token"
    token.write_text(await server.token_of("baton-planner", chosen.namespace), encoding="utf-8")
    lease = msgspec.structs.replace(chosen.lease or LeaseSettings(name="baton-planner"), identity=name)
    made = msgspec.structs.replace(
        chosen, api_url=server.url, ca_file=str(server.ca_file), token_file=str(token), lease=lease
    )
    return Kubernetes(made, now_s=LoopClock().now_s)


async def ordered(target: Kubernetes, prefill: int) -> Outcome:
    """Look, and order a size of the prefill pool."""
    pools = await target.pools()
    orders = tuple(
        PoolOrder(
            phase=pool.phase,
            kind=pool.kind,
            worker_count=prefill if pool.phase.value == "prefill" else pool.ordered_count,
        )
        for pool in pools
    )
    return await target.carry_out(Decision(orders=orders, look_s=10.0))


async def until_done(target: Kubernetes, prefill: int) -> float:
    """Order a size until it is carried out; returns after how long, s."""
    began_s = time.monotonic()
    for _ in range(600):
        with contextlib.suppress(TargetUnavailable):  # out of sight, as while the server restarts
            done = (await ordered(target, prefill)).done
            if (
                done or (await target.pools())[0].ordered_count == prefill
            ):  # an answer may be lost, not the order
                return time.monotonic() - began_s
        await asyncio.sleep(0.1)
    raise TimeoutError(f"{prefill} were never ordered")


async def edit(server: KubeApiServer, change: Manifest, path: str = PREFILL) -> None:
    """Change an object as a person does."""
    (await server.client.patch(path, json=change, headers=MERGE)).raise_for_status()


async def seen(target: Kubernetes, count: int) -> None:
    """Wait until the prefill pool has a size."""
    for _ in range(100_000):
        if (await target.pools())[0].ordered_count == count:
            return
        await asyncio.sleep(0)
    raise TimeoutError(f"a size of {count} was never seen")


async def refused(server: KubeApiServer) -> list[int]:
    """Ask, as the planner's account, for what its Role does not give; the answers' codes."""
    deployments = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
    async with server.client_of(await server.token_of("baton-planner", NAMESPACE)) as client:
        answers = [
            await client.get(deployments),
            await client.get(f"/api/v1/namespaces/{NAMESPACE}/secrets"),
            await client.put(f"{deployments}/baton-planner/scale", json={}),
            await client.patch(PREFILL, json={"spec": {"replicas": 9}}, headers=MERGE),
            await client.delete(LEASE),
        ]
    return [answer.status_code for answer in answers]


async def story(server: KubeApiServer, chosen: KubernetesSettings, folder: Path) -> None:
    """Two planners live through edits, holds, a restart of the server and the loss of the one that acts."""
    first = await planner_of(server, chosen, "first", folder)
    say(f"scaled by the chart's account after {await until_done(first, 3):.2f} s, lease included")
    say(f"asked with that account for all workloads, secrets, other scales: {await refused(server)}")
    second = await planner_of(server, chosen, "second", folder)
    say(f"beside it: {(await ordered(second, 9)).left[0]}")
    times = []
    for count in range(EDITS):
        began_s = time.monotonic()
        await edit(server, {"spec": {"replicas": 4 + count % 2}})
        await seen(first, 4 + count % 2)
        times.append(1000.0 * (time.monotonic() - began_s))
    times.sort()
    middle_ms, late_ms = statistics.median(times), times[-2]
    say(f"{EDITS} edits seen after p50 {middle_ms:.1f} ms, p99 {late_ms:.1f} ms, PATCH included")
    await edit(server, {"metadata": {"annotations": {"baton/hold": "true"}}})
    say(f"held, told to scale at once: {(await ordered(first, 7)).left[0]}")
    await edit(server, {"metadata": {"annotations": {"baton/hold": None}}})
    status = {"status": {"replicas": 4, "readyReplicas": 3, "updatedReplicas": 4, "observedGeneration": 1}}
    await edit(server, status, f"{PREFILL}/status")
    say(f"released, scaled after {await until_done(first, 6):.2f} s")
    pool = (await first.pools())[0]
    say(f"readiness by the status subresource: {pool.ready_count} ready, {len(pool.starting_s)} starting")
    server.stop("api")
    await asyncio.sleep(3.0)
    await server.start()
    say(f"server restarted; scaled again after {await until_done(first, 5):.1f} s")
    await first.close()
    say(f"first stopped; second acts after {await until_done(second, 8):.1f} s")
    await edit(server, {"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 3600}}, LEASE)
    await asyncio.sleep(3.0)
    say(f"lease taken away: {(await ordered(second, 2)).left[0]}")
    (await server.client.delete(LEASE)).raise_for_status()
    say(f"lease deleted: {(await ordered(second, 2)).left[0]}")
    await second.close()


def group_definition() -> Manifest:
    """Define LeaderWorkerSets as their project does, as far as scaling goes."""
    paths = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.hpaPodSelector",
    }
    whatever = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": whatever},
        "subresources": {"status": {}, "scale": paths},
    }
    names = {"kind": "LeaderWorkerSet", "plural": "leaderworkersets", "singular": "leaderworkerset"}
    about = {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/lws"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "leaderworkersets.leaderworkerset.x-k8s.io", "annotations": about},
        "spec": {
            "group": "leaderworkerset.x-k8s.io",
            "scope": "Namespaced",
            "names": names,
            "versions": [version],
        },
    }


async def groups(server: KubeApiServer, folder: Path) -> None:
    """Scale workers that span machines, which are custom resources."""
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    (await server.client.post(definitions, json=group_definition())).raise_for_status()
    namespace = "wide"
    await server.client.post("/api/v1/namespaces", json={"metadata": {"name": namespace}})
    wanted = {"ServiceAccount", "Role", "RoleBinding", "Lease", "LeaderWorkerSet"}
    manifests = [m for m in rendered("two-machines") if m["kind"] in wanted]
    for manifest in manifests:
        if manifest["kind"] == "RoleBinding":
            manifest["subjects"][0]["namespace"] = namespace
        for _ in range(50):  # a new kind is served a moment after it is defined
            if (answer := await server.make(manifest, namespace)).status_code != 404:
                break
            await asyncio.sleep(0.2)
        answer.raise_for_status()
    workloads = tuple(
        WorkloadSettings(phase=phase, name=f"baton-{phase.value}", resource="leaderworkerset")
        for phase in Phase
    )
    chosen = KubernetesSettings(namespace=namespace, workloads=workloads)
    target = await planner_of(server, chosen, "wide", folder)
    took_s = await until_done(target, 3)
    say(f"LeaderWorkerSets: scaled by the account of two-machines.yaml after {took_s:.2f} s")
    path = f"/apis/leaderworkerset.x-k8s.io/v1/namespaces/{namespace}/leaderworkersets/baton-prefill"
    await edit(server, {"spec": {"replicas": 4}}, path)
    await seen(target, 4)
    await edit(server, {"status": {"replicas": 4, "readyReplicas": 2}}, f"{path}/status")
    say(f"an edit of one was seen, and scaled again after {await until_done(target, 2):.2f} s")
    await target.close()


async def living(server: KubeApiServer, folder: Path) -> None:
    """Have a planner's process size workers' processes, with the account that the chart renders for it."""
    namespace = "living"
    await server.client.post("/api/v1/namespaces", json={"metadata": {"name": namespace}})
    account = {"ca.crt": server.ca_file.read_text(encoding="utf-8")}
    api = Api(people=server.client, url=server.url, namespace=namespace, account=account)
    wanted = {"ServiceAccount", "Role", "RoleBinding", "Lease", "Deployment"}
    for manifest in manifests(api, "http://nobody"):
        if manifest["kind"] not in wanted or manifest["metadata"]["name"] == f"{RELEASE}-gateway":
            continue  # a gateway's preStop sleep is unknown to old servers
        if manifest["kind"] == "RoleBinding":
            manifest["subjects"][0]["namespace"] = namespace
        (await server.make(manifest, namespace)).raise_for_status()
    account["token"] = await server.token_of(PLANNER, namespace)
    (pods := folder / namespace).mkdir()
    async with playing(pods, api) as stage:
        count = await living_story(stage, lambda line: say(f"  {line}"))
    say(f"a planner's process over NATS and workers' processes: all of {count} answers as undisturbed")


async def run(arguments: argparse.Namespace) -> None:
    """Run everything."""
    async with serving(arguments.kube_apiserver, arguments.etcd, port=arguments.port) as server:
        if arguments.record:
            await record(server, arguments.named)
        settings = await install(server)
        assert isinstance(settings.target, KubernetesSettings)
        await living(server, server.ca_file.parent)
        await groups(server, server.ca_file.parent)
        await story(server, settings.target, server.ca_file.parent)


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--kube-apiserver", type=Path)
    asked.add_argument("--etcd", type=Path)
    asked.add_argument("--port", type=int, default=16443)
    asked.add_argument("--named", default="kube-apiserver", help="what the recordings say of the server")
    asked.add_argument("--record", action="store_true", help="write the recordings of the tests anew")
    chosen = asked.parse_args()
    if chosen.kube_apiserver is None or chosen.etcd is None:
        say("name --kube-apiserver and --etcd; docs/kubernetes.md says where they come from")
        sys.exit(0)
    asyncio.run(run(chosen))
