"""Kubernetes: pools are workloads with a scale subresource (Deployment, StatefulSet, LeaderWorkerSet).

Comes in: decisions. Goes out: pools, sentences. Invariants: a write carries the version at which the workload
was last seen, so that whoever changed it in between wins; a workload with the hold annotation is never
written; with a lease only its holder writes, and a write in flight is given up when the lease runs out. Pods
drain by their own SIGTERM handling. Not here: which pods go (the workload's controller), workers that turn
(`planner.targets.turning`), how workloads are seen (`following`), who leads (`leadership`).

Protocol: PUT of `.../scale` (autoscaling/v1 Scale), whose version is that of the workload.
"""

import asyncio
from collections.abc import Callable

import httpx

from planner.decision import Decision, PoolOrder
from planner.observation import PoolState
from planner.targets.kubernetes.api import Api, Conflict
from planner.targets.kubernetes.following import HOLD_ANNOTATION, Follower
from planner.targets.kubernetes.leadership import Leadership
from planner.targets.kubernetes.objects import Workload, decoded
from planner.targets.kubernetes.settings import KubernetesSettings, WorkloadSettings
from planner.targets.port import Outcome
from services.runtime.tasks import Nursery


class Kubernetes:
    """Scales workloads of one namespace."""

    def __init__(
        self,
        settings: KubernetesSettings,
        *,
        now_s: Callable[[], float],
        client: httpx.AsyncClient | None = None,
    ) -> None:
        """Prepare; nothing is read before the first look.

        Args:
            settings: where the API is, and the workloads.
            now_s: the planner's clock.
            client: to the API server; None makes one with the service account's authorities.

        Raises:
            ConfigurationInvalid: the authorities' file holds no certificate.
        """
        self._settings = settings
        self._now_s = now_s
        self._apis = [Api(settings, now_s=now_s, client=client)]
        self._followers = {
            workload: Follower(self._apis[0], workload, settings, now_s=now_s)
            for workload in settings.workloads
        }
        self._leadership: Leadership | None = None
        if settings.lease is not None:
            self._apis.append(Api(settings, now_s=now_s, client=client))
            self._leadership = Leadership(
                self._apis[1], settings.lease, namespace=settings.namespace, now_s=now_s
            )
        self._decided_on: dict[WorkloadSettings, int] = {}
        self._nursery: Nursery | None = None
        self._failure: BaseException | None = None

    async def pools(self) -> tuple[PoolState, ...]:
        """Say what all workloads are like now; the first call begins to follow them.

        Raises:
            TargetUnavailable: one of them is out of sight.
            BaseException: what ended the following of one, which nothing but a new process mends.
        """
        if self._failure is not None:
            raise self._failure
        if self._nursery is None:
            self._nursery = Nursery("kubernetes", self._failed)
            for workload, follower in self._followers.items():
                self._nursery.start(follower.run(), workload.name)
            if self._leadership is not None:
                self._nursery.start(self._leadership.run(), "lease")
        return tuple([await self._pool(workload) for workload in self._settings.workloads])

    async def carry_out(self, decision: Decision) -> Outcome:
        """Write the scale of every workload that is to have another size."""
        done: list[str] = []
        left: list[str] = [
            f"{flip.source.value} of kind {flip.kind}: nobody turns without a bus" for flip in decision.flips
        ]
        for order in decision.orders:
            workload = self._workload(order)
            if workload is None:
                if order.worker_count > 0:
                    left.append(f"no workload is named for {order.phase.value} of kind {order.kind}")
                continue
            before = self._decided_on.get(workload)
            if before is None or before == order.worker_count:
                continue
            hindrance = await self._scale(workload, before, order.worker_count)
            if hindrance is None:
                done.append(f"{workload.name}: {before} → {order.worker_count}")
                self._decided_on[workload] = order.worker_count
            else:
                left.append(f"{workload.name} {hindrance}")
        return Outcome(done=tuple(done), left=tuple(left))

    @property
    def may_write(self) -> bool:
        """Whether this planner leads, or is the only one."""
        return self._leadership is None or self._leadership.left_s > 0.0

    async def close(self) -> None:
        """Stop following, give the lease back, close connections; idempotent."""
        if self._nursery is not None:
            await self._nursery.close()
        if self._leadership is not None:
            await self._leadership.release()
        for api in self._apis:
            await api.close()

    def _failed(self, failure: BaseException) -> None:
        self._failure = failure

    def _workload(self, order: PoolOrder) -> WorkloadSettings | None:
        return next(
            (
                workload
                for workload in self._settings.workloads
                if (workload.phase, workload.kind) == (order.phase, order.kind)
            ),
            None,
        )

    async def _pool(self, workload: WorkloadSettings) -> PoolState:
        seen, now_s = await self._followers[workload].now(), self._now_s()
        self._decided_on[workload] = seen.size
        return PoolState(
            phase=workload.phase,
            kind=workload.kind,
            ready_count=seen.ready_count,
            starting_s=tuple(now_s - moment_s for moment_s in seen.missed_s),
            draining_count=max(0, seen.present_count - seen.size),
            is_held=seen.is_held,
        )

    async def _scale(self, workload: WorkloadSettings, before: int, count: int) -> str | None:
        """Write a size unless somebody stands in the way; returns who or what did."""
        follower = self._followers[workload]
        refused: str | None = None
        for _ in range(self._settings.tries_max):
            seen = await follower.other_than(refused)
            if seen.is_held:
                return f"is held by its annotation {HOLD_ANNOTATION}"
            if seen.size != before:
                return "was changed by somebody else; looking again"
            refused = seen.version
            lease_s = None if self._leadership is None else self._leadership.left_s
            if lease_s is not None and lease_s <= 0.0:
                return self._not_leading()
            follower.writes(count)
            try:
                async with asyncio.timeout(lease_s):
                    scale = await self._put(follower.path, workload.name, seen.version, count)
            except Conflict:
                continue  # a status or an annotation changed; what changed decides
            except TimeoutError:
                return self._not_leading()
            follower.wrote(scale, seen.version)
            return None
        return "changes faster than it can be written"

    def _not_leading(self) -> str:
        leader = "nobody" if self._leadership is None else self._leadership.leader
        return f"is left alone: this planner holds no lease, {leader} does"

    async def _put(self, path: str, name: str, version: str, count: int) -> Workload:
        metadata = {"name": name, "namespace": self._settings.namespace, "resourceVersion": version}
        body = {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": metadata,
            "spec": {"replicas": count},
        }
        answer = await self._apis[0].ask("PUT", f"{path}/scale", body)
        return decoded(answer, Workload, path)
