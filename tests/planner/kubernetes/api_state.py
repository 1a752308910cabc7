"""The part of a Kubernetes API server that the planner speaks to, as one object without I/O.

Comes in: requests, edits by people and controllers. Goes out: answers, events. Invariant, as of the real one:
versions grow over all objects; a write with another version than the present one is refused with 409; a watch
from a version that was forgotten ends with an ERROR event of code 410. Checked against recordings of a real
kube-apiserver by `test_recorded`.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Listener = Callable[[Json], None]


@dataclass
class Answer:
    """What the server says."""

    status: int
    body: Json


@dataclass
class Watching:
    """One watch: events from a version on, of one name."""

    collection: str
    name: str | None
    tell: Listener

    def concerns(self, path: str) -> bool:
        """Tell whether an object is watched."""
        collection, _, name = path.rpartition("/")
        return collection == self.collection and self.name in (None, name)


@dataclass
class ApiState:
    """Objects by path, their history, and who watches."""

    objects: dict[str, Json] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    """Tokens that are taken; empty takes any."""
    version: int = 100
    forgotten: int = 0
    history: list[tuple[int, str, Json]] = field(default_factory=list)
    watches: list[Watching] = field(default_factory=list)

    # ------------------------------------------------------------------ what others do

    def workload(self, path: str, replicas: int) -> None:
        """Make a workload whose workers are all ready."""
        status = {"replicas": replicas, "readyReplicas": replicas}
        self._put("ADDED", path, {"metadata": {}, "spec": {"replicas": replicas}, "status": status})

    def lease(self, path: str) -> None:
        """Make a lease that nobody holds."""
        self._put("ADDED", path, {"metadata": {"labels": {"of": "chart"}}, "spec": {}})

    def edit(
        self, path: str, *, replicas: int | None = None, ready: int | None = None, held: bool | None = None
    ) -> None:
        """Change a workload, as people and controllers do."""
        changed = copy.deepcopy(self.objects[path])
        if replicas is not None:
            changed["spec"]["replicas"] = replicas
        if ready is not None:
            changed["status"] = {"replicas": ready, "readyReplicas": ready}
        if held is not None:
            changed["metadata"]["annotations"] = {"baton/hold": "true"} if held else {}
        self._put("MODIFIED", path, changed)

    def delete(self, path: str) -> None:
        """Delete an object."""
        gone = self.objects.pop(path)
        self._happen("DELETED", path, gone)

    def forget(self) -> None:
        """Forget all history, as compaction does."""
        self.version += 1
        self.forgotten = self.version

    def bookmark(self) -> None:
        """Tell every watch the present version."""
        for watching in list(self.watches):
            watching.tell(
                {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(self.version)}}}
            )

    # ------------------------------------------------------------------ what is asked

    def ask(self, method: str, path: str, token: str, query: Mapping[str, str], body: Json | None) -> Answer:
        """Answer anything but a watch."""
        if self.tokens and token not in self.tokens:
            return _status(401, "Unauthorized")
        if method == "GET" and "fieldSelector" in query:
            return self._list(path, query)
        is_scale, whole = path.endswith("/scale"), path.removesuffix("/scale").removesuffix("/status")
        found = self.objects.get(whole)
        if found is None:
            return _status(404, "NotFound")
        if method == "GET":
            return Answer(200, _scale(found) if is_scale else found)
        assert body is not None
        wanted = body.get("metadata", {}).get("resourceVersion")
        if wanted is not None and wanted != found["metadata"]["resourceVersion"]:
            return _status(409, "Conflict")
        changed = copy.deepcopy(found)
        if method == "PUT" and is_scale:
            changed["spec"]["replicas"] = body["spec"]["replicas"]
        elif method == "PATCH" and not is_scale:
            changed = _patched(changed, body)
        else:
            return _status(405, "MethodNotAllowed")
        self._put("MODIFIED", whole, changed)
        return Answer(200, _scale(self.objects[whole]) if is_scale else self.objects[whole])

    def watch(self, collection: str, query: Mapping[str, str], tell: Listener) -> Watching:
        """Tell a listener all that happened since a version, and all that will."""
        watching = Watching(collection, _name(query), tell)
        since = int(query["resourceVersion"])
        if since < self.forgotten:
            expired = _status(410, "Expired").body
            tell({"type": "ERROR", "object": expired})
            return watching
        for version, path, event in self.history:
            if version > since and watching.concerns(path):
                tell(event)
        self.watches.append(watching)
        return watching

    def _list(self, collection: str, query: Mapping[str, str]) -> Answer:
        wanted = Watching(collection, _name(query), lambda _event: None)
        items = [found for path, found in sorted(self.objects.items()) if wanted.concerns(path)]
        return Answer(200, {"metadata": {"resourceVersion": str(self.version)}, "items": items})

    def _put(self, kind: str, path: str, changed: Json) -> None:
        self.version += 1
        changed["metadata"] |= {"name": path.rpartition("/")[2], "resourceVersion": str(self.version)}
        self.objects[path] = changed
        self._happen(kind, path, changed)

    def _happen(self, kind: str, path: str, changed: Json) -> None:
        if kind == "DELETED":
            self.version += 1
            changed["metadata"]["resourceVersion"] = str(self.version)
        event = {"type": kind, "object": copy.deepcopy(changed)}
        self.history.append((self.version, path, event))
        for watching in list(self.watches):
            if watching.concerns(path):
                watching.tell(event)


def _name(query: Mapping[str, str]) -> str | None:
    return query["fieldSelector"].removeprefix("metadata.name=") if "fieldSelector" in query else None


def _scale(workload: Json) -> Json:
    metadata = {key: workload["metadata"][key] for key in ("name", "resourceVersion")}
    return {
        "metadata": metadata,
        "spec": {"replicas": workload["spec"]["replicas"]},
        "status": {"replicas": 0},
    }


def _patched(found: Json, patch: Json) -> Json:
    """Lay a merge patch (RFC 7386) over an object."""
    kept = found | {
        key: _patched(found.get(key) or {}, change) if isinstance(change, dict) else change
        for key, change in patch.items()
    }
    return {key: value for key, value in kept.items() if value is not None}


def _status(code: int, reason: str) -> Answer:
    return Answer(
        code, {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason}
    )
