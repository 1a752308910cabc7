"""Keeps as many pods running as an API server says: the controller of Deployments, for tests.

Comes in: an API server, that of the tests or a real one, and the pods of a release. Goes out: pods that start
and end, the status of each Deployment. Invariant: the newest pod goes first, and ends as the kubelet ends it.
"""

import asyncio
import itertools
from collections.abc import Iterable

import httpx

from tests.helm.chart import Manifest, Pod
from tests.helm.kubelet import Cluster, RunningPod

MERGE = {"Content-Type": "application/merge-patch+json"}
POLL_S = 0.2
WATCHED_S = 300.0
"""Longest time that pods are kept; above that of any story."""


class Controllers:
    """Follows some Deployments."""

    def __init__(
        self, api: httpx.AsyncClient, cluster: Cluster, collection: str, names: Iterable[str]
    ) -> None:
        """Take over the pods that run.

        Args:
            api: a client that may read and write Deployments.
            cluster: their pods.
            collection: path of the Deployments.
            names: of those to follow.
        """
        self._api = api
        self._cluster = cluster
        self._collection = collection
        self._names = tuple(names)
        self._templates: dict[str, Pod] = {name: self._of(name)[0].pod for name in self._names}
        self._numbers = {name: itertools.count(len(self._of(name))) for name in self._names}
        self.ended: dict[str, int] = {}
        """Exit codes of pods that went, by name."""

    async def run(self) -> None:
        """Follow until cancelled."""
        async with httpx.AsyncClient() as probes, asyncio.TaskGroup() as leaving, asyncio.timeout(WATCHED_S):
            while True:
                for name in self._names:
                    await self._follow(name, probes, leaving)
                await asyncio.sleep(POLL_S)

    def _of(self, name: str) -> list[RunningPod]:
        owner = f"Deployment/{name}"
        return [pod for pod in self._cluster.pods if pod.pod.owner == owner and not pod.leaving]

    async def _follow(self, name: str, probes: httpx.AsyncClient, leaving: asyncio.TaskGroup) -> None:
        path = f"{self._collection}/{name}"
        found: Manifest = (await self._api.get(path)).raise_for_status().json()
        size = found["spec"]["replicas"]
        for _ in range(len(self._of(name)), size):
            await self._cluster.add(self._templates[name], next(self._numbers[name]))
        for pod in self._of(name)[size:]:
            pod.leaving = True
            leaving.create_task(self._see_off(pod))
        pods = self._of(name)
        status = {
            "replicas": len(pods),
            "updatedReplicas": len(pods),
            "readyReplicas": sum([await pod.answers(probes, "readinessProbe") for pod in pods]),
            "observedGeneration": found["metadata"].get("generation", 1),
        }
        if not status.items() <= found.get("status", {}).items():
            answer = await self._api.patch(f"{path}/status", json={"status": status}, headers=MERGE)
            answer.raise_for_status()

    async def _see_off(self, pod: RunningPod) -> None:
        self.ended[pod.name] = await self._cluster.end(pod)
