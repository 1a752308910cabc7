"""Questions to an API server whose answers decide what the planner may rely on.

Comes in: a client, to a real server or to the one in memory. Goes out: answers, and the gist of each: what
must be alike between servers. Invariant: begins with the deployment `probe` of two replicas and the lease
`probe` without a holder. The answers of a real kube-apiserver are kept in `recorded.json` by
`tests.bench.bench_kube_apiserver`.
"""

import json
from typing import Any

import httpx

Json = dict[str, Any]
DEPLOYMENTS = "/apis/apps/v1/namespaces/llm/deployments"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/llm/leases"
WATCH_S = "75"
"""Length of a watch in which a bookmark comes: kube-apiserver sends one a minute."""
MERGE = {"Content-Type": "application/merge-patch+json"}


class Probes:
    """Asks everything once, in order."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        """Take a client that is allowed everything."""
        self._client = client
        self.answers: dict[str, Json] = {}

    async def run(self) -> dict[str, Json]:
        """Ask; answers by the name of their question."""
        listed = await self._ask("list by name", "GET", DEPLOYMENTS, params=_named("probe"))
        await self._ask("list of a name that is not there", "GET", DEPLOYMENTS, params=_named("nobody"))
        first = listed["items"][0]["metadata"]["resourceVersion"]
        scaled = await self._ask("scale", "PUT", f"{DEPLOYMENTS}/probe/scale", json=_scale(first, 4))
        await self._ask("scale, too late", "PUT", f"{DEPLOYMENTS}/probe/scale", json=_scale(first, 5))
        missing = _scale(first, 5, "nobody")
        await self._ask("scale of nobody", "PUT", f"{DEPLOYMENTS}/nobody/scale", json=missing)
        again = await self._ask("list after scaling", "GET", DEPLOYMENTS, params=_named("probe"))
        assert again["items"][0]["metadata"]["resourceVersion"] == scaled["metadata"]["resourceVersion"]
        await self._watch("watch", listed["metadata"]["resourceVersion"], scaled_to=6)
        await self._watch("watch from long ago", "1")
        free = await self._ask("lease", "GET", f"{LEASES}/probe")
        version = free["metadata"]["resourceVersion"]
        taken = {
            "holderIdentity": "me",
            "leaseDurationSeconds": 15,
            "renewTime": "2026-01-01T00:00:00.000000Z",
        }
        body = {"metadata": {"resourceVersion": version}, "spec": taken}
        held = await self._ask("lease taken", "PATCH", f"{LEASES}/probe", json=body, headers=MERGE)
        await self._ask("lease, too late", "PATCH", f"{LEASES}/probe", json=body, headers=MERGE)
        version = held["metadata"]["resourceVersion"]
        given = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": None}
        body = {"metadata": {"resourceVersion": version}, "spec": given}
        await self._ask("lease given back", "PATCH", f"{LEASES}/probe", json=body, headers=MERGE)
        wrong = {"Authorization": "Bearer wrong"}
        await self._ask("wrong token", "GET", DEPLOYMENTS, params=_named("probe"), headers=wrong)
        return self.answers

    async def _ask(self, name: str, method: str, path: str, **how: Any) -> Json:
        answer = await self._client.request(method, path, **how)
        body: Json = answer.json()
        self.answers[name] = {"status": answer.status_code, "body": body}
        return body

    async def _watch(self, name: str, version: str, *, scaled_to: int | None = None) -> None:
        """Watch until the server ends it; scale at the first event, so that another follows."""
        query = _named("probe") | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": WATCH_S,
        }
        events: list[Json] = []
        async with self._client.stream("GET", DEPLOYMENTS, params=query) as answer:
            async for line in answer.aiter_lines():
                events.append(json.loads(line))
                if scaled_to is not None and len(events) == 1:
                    body = _scale(events[0]["object"]["metadata"]["resourceVersion"], scaled_to)
                    await self._ask("scale while watched", "PUT", f"{DEPLOYMENTS}/probe/scale", json=body)
        self.answers[name] = {"status": answer.status_code, "events": events}


def gist(answer: Json) -> Json:
    """Keep what must be alike between servers; versions and what nobody reads are not."""
    kept: Json = {"status": answer["status"]}
    if "events" in answer:
        told = [event for event in answer["events"] if event["type"] != "BOOKMARK"]  # come when they come
        kept["events"] = [[event["type"], _facts(event["object"])] for event in told]
    else:
        kept |= _facts(answer["body"])
        kept["items"] = [_facts(item) for item in answer["body"].get("items", [])]
    return kept


def _facts(body: Json) -> Json:
    spec = body.get("spec") or {}
    facts = {key: spec[key] for key in ("replicas", "holderIdentity", "leaseDurationSeconds") if key in spec}
    facts |= {key: body[key] for key in ("code", "reason") if key in body}
    facts["labels"] = (body.get("metadata") or {}).get("labels") if "holderIdentity" in facts else None
    facts["renewed"] = "renewTime" in spec
    return facts


def _named(name: str) -> dict[str, str]:
    return {"fieldSelector": f"metadata.name={name}"}


def _scale(version: str, replicas: int, name: str = "probe") -> Json:
    metadata = {"name": name, "namespace": "llm", "resourceVersion": version}
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": metadata,
        "spec": {"replicas": replicas},
    }
