"""One workload, followed by list and watch.

Comes in: lines of a watch. Goes out: the workload as it is now, and a word when it was changed by another.
Invariant: what is shown is no older than the last answer of the server, or nothing is shown: a watch that is
refused or lost takes the workload out of sight until it was read anew. Not here: writes (`target`).

Protocol: a list of the one name gives a version to watch from; bookmarks move it on; a watch that ends is
opened again from there; 410 (the server has forgotten that version) lists again.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from planner.targets.kubernetes.api import RETRY_MAX_S, Api, Gone, refusal
from planner.targets.kubernetes.objects import Event, Status, Workload, Workloads, decoded
from planner.targets.kubernetes.settings import KubernetesSettings, WorkloadSettings
from planner.targets.port import TargetUnavailable

log = logging.getLogger(__name__)

HOLD_ANNOTATION = "baton/hold"
"""With the value "true" on a workload: a person keeps it as it is."""
_COLLECTIONS = {
    "deployment": "apis/apps/v1/namespaces/{namespace}/deployments",
    "statefulset": "apis/apps/v1/namespaces/{namespace}/statefulsets",
    "leaderworkerset": "apis/leaderworkerset.x-k8s.io/v1/namespaces/{namespace}/leaderworkersets",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A workload at one version.

    Attributes:
        version: of the object.
        size: workers that are ordered.
        ready_count: of these, ready.
        present_count: pods, also those that go.
        is_held: a person keeps it as it is.
        missed_s: when each ordered worker that is not ready was first missed, oldest first.
    """

    version: str
    size: int
    ready_count: int
    present_count: int
    is_held: bool
    missed_s: tuple[float, ...]


def fold(before: Seen | None, found: Workload, now_s: float) -> Seen:
    """Fold a reading into what is known."""
    return Seen(
        version=found.metadata.resource_version,
        size=found.size,
        ready_count=min(found.status.ready_replicas, found.size),
        present_count=found.status.replicas or 0,
        is_held=found.metadata.annotations.get(HOLD_ANNOTATION) == "true",
        missed_s=_missed(before, found.size - found.status.ready_replicas, now_s),
    )


def fold_scale(before: Seen, scale: Workload, now_s: float) -> Seen:
    """Fold the answer to a write of the size, which tells of nothing else."""
    return replace(
        before,
        version=scale.metadata.resource_version,
        size=scale.size,
        ready_count=min(before.ready_count, scale.size),
        missed_s=_missed(before, scale.size - before.ready_count, now_s),
    )


def _missed(before: Seen | None, missing_count: int, now_s: float) -> tuple[float, ...]:
    """Keep the oldest moments, and add this one for those that are missed anew."""
    kept = () if before is None else before.missed_s[: max(0, missing_count)]
    return (*kept, *[now_s] * (missing_count - len(kept)))


class Follower:
    """Keeps one workload in sight."""

    def __init__(
        self,
        api: Api,
        workload: WorkloadSettings,
        settings: KubernetesSettings,
        *,
        now_s: Callable[[], float],
    ) -> None:
        """Prepare; `run` follows.

        Args:
            api: asks.
            workload: which one.
            settings: of the target.
            now_s: the planner's clock.
        """
        self._api = api
        self._name = workload.name
        self._collection = _COLLECTIONS[workload.resource].format(namespace=settings.namespace)
        self._settings = settings
        self._now_s = now_s
        self._seen: Seen | None = None
        self._last: Seen | None = None
        self._written: int | None = None
        self._fault = "not read yet"
        self._changed = asyncio.Event()

    @property
    def path(self) -> str:
        """Of the workload."""
        return f"{self._collection}/{self._name}"

    async def now(self) -> Seen:
        """Return the workload as it is, waiting a while for a first sight.

        Raises:
            TargetUnavailable: it is out of sight.
        """
        return await self.other_than(None)

    async def other_than(self, version: str | None) -> Seen:
        """Return the workload when it has another version than one that was refused.

        Raises:
            TargetUnavailable: it is out of sight.
        """
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                while self._seen is None or self._seen.version == version:
                    await self._changed.wait()
                    self._changed.clear()
        except TimeoutError:
            raise TargetUnavailable(f"{self._name}: {self._fault}") from None
        return self._seen

    def writes(self, size: int) -> None:
        """Expect one's own write, which the watch may tell of before it is answered."""
        self._written = size

    def wrote(self, scale: Workload, version: str) -> None:
        """Take in the answer to one's own write, unless the watch has told of it or of more.

        Args:
            scale: the answer.
            version: that the write replaced.
        """
        if self._seen is not None and self._seen.version == version:
            self._seen = self._last = fold_scale(self._seen, scale, self._now_s())

    async def run(self) -> None:
        """Follow until cancelled."""
        pause_s = self._settings.retry_s
        while True:
            try:
                version = await self._list()
                pause_s = self._settings.retry_s
                while True:
                    version = await self._watch(version)
            except Gone as error:
                log.info("%s: read again: %s", self._name, error)
            except TargetUnavailable as error:
                self._lose(str(error))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RETRY_MAX_S)

    async def _list(self) -> str:
        """Read the workload; returns the version to watch from."""
        answer = await self._api.ask("GET", self._collection, query=self._query())
        found = decoded(answer, Workloads, self._collection)
        if found.items:
            self._show(found.items[0])
        else:
            self._lose("there is no such workload")
        return found.metadata.resource_version

    async def _watch(self, version: str) -> str:
        """Follow from a version until the watch ends; returns the version to go on from."""
        query = self._query() | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": f"{self._settings.watch_s:.0f}",
        }
        silence_s = self._settings.watch_s + self._settings.request_timeout_s
        lines = self._api.watch(self._collection, query, silence_s=silence_s)
        async with aclosing(lines):
            async for line in lines:
                event = decoded(line, Event, self._collection)
                if event.type == "ERROR":
                    status = decoded(event.object, Status, self._collection)
                    raise refusal(status.code, f"watch {self._collection}", status.message)
                found = decoded(event.object, Workload, self._collection)
                version = found.metadata.resource_version
                if event.type in ("ADDED", "MODIFIED"):
                    self._show(found)
                elif event.type == "DELETED":
                    self._lose("it was deleted")
        return version

    def _query(self) -> dict[str, str]:
        """Choose the one object; a role that names its resources allows nothing else."""
        return {"fieldSelector": f"metadata.name={self._name}"}

    def _show(self, found: Workload) -> None:
        before, seen = self._last, fold(self._last, found, self._now_s())
        self._seen = self._last = seen
        self._changed.set()
        if before is not None and before.size != seen.size != self._written:
            log.warning("%s: %d → %d, not by this planner", self._name, before.size, seen.size)
        if before is not None and before.is_held != seen.is_held:
            log.warning("%s is %s", self._name, "held" if seen.is_held else "no longer held")

    def _lose(self, fault: str) -> None:
        if self._seen is not None or fault != self._fault:
            log.warning("%s is out of sight: %s", self._name, fault)
        self._seen, self._fault = None, fault
        self._changed.set()
