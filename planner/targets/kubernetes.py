"""Kubernetes: pools are workloads with a scale subresource (Deployment, StatefulSet, LeaderWorkerSet).

Comes in: decisions. Goes out: pools, sentences. Invariant: a write carries the version that was read, so that
whoever changed the workload in between wins; a workload with the hold annotation is never written; requests
end after `request_timeout_s` and are tried at most `tries_max` times. Pods drain by their own SIGTERM
handling. Not here: which pods go (the workload's controller), roles of running workers (fixed per workload).

Protocol: GET the workload for readiness and annotations, GET and PUT `.../scale` (autoscaling/v1 Scale).
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from planner.decision import Decision, PoolOrder
from planner.observation import PoolState
from planner.process_settings import KubernetesSettings, WorkloadSettings
from planner.targets.port import Outcome, TargetUnavailable
from services.domain.errors import ConfigurationInvalid

HOLD_ANNOTATION = "baton/hold"
"""With the value "true" on a workload: a person keeps it as it is."""
_PATHS = {
    "deployment": "apis/apps/v1/namespaces/{namespace}/deployments/{name}",
    "statefulset": "apis/apps/v1/namespaces/{namespace}/statefulsets/{name}",
    "leaderworkerset": "apis/leaderworkerset.x-k8s.io/v1/namespaces/{namespace}/leaderworkersets/{name}",
}
_TRY_AGAIN = frozenset({429, 500, 502, 503, 504})
RETRY_MAX_S = 10.0
"""Longest pause between two tries, whatever the server asks for; seconds."""


class _Metadata(msgspec.Struct, frozen=True):
    resourceVersion: str = ""  # noqa: N815  # Kubernetes' own name
    annotations: dict[str, str] = {}


class _Replicas(msgspec.Struct, frozen=True):
    replicas: int | None = None
    readyReplicas: int = 0  # noqa: N815  # Kubernetes' own name


class _Workload(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: _Replicas
    status: _Replicas = _Replicas()


@dataclass(slots=True)
class _Seen:
    """A workload as last read."""

    version: str
    replicas: int
    is_held: bool
    asked_s: list[float]
    """When each worker that is not ready yet was first missed."""


class Kubernetes:
    """Scales workloads of one namespace."""

    def __init__(
        self,
        settings: KubernetesSettings,
        *,
        now_s: Callable[[], float],
        client: httpx.AsyncClient | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            settings: where the API is, and the workloads.
            now_s: the planner's clock.
            client: to the API server; None makes one with the service account's authorities.

        Raises:
            ConfigurationInvalid: the authorities' file holds no certificate.
        """
        self._settings = settings
        self._now_s = now_s
        self._client = client or httpx.AsyncClient(
            base_url=settings.api_url,
            timeout=settings.request_timeout_s,
            verify=_trust(settings.ca_file),
        )
        self._seen: dict[WorkloadSettings, _Seen] = {}

    async def pools(self) -> tuple[PoolState, ...]:
        """Read all workloads."""
        return tuple([await self._pool(workload) for workload in self._settings.workloads])

    async def carry_out(self, decision: Decision) -> Outcome:
        """Write the scale of every workload that is to have another size."""
        done: list[str] = []
        left: list[str] = [
            f"{flip.source.value} of kind {flip.kind} cannot change roles here" for flip in decision.flips
        ]
        for order in decision.orders:
            workload = self._workload(order)
            if workload is None:
                if order.worker_count > 0:
                    left.append(f"no workload is named for {order.phase.value} of kind {order.kind}")
                continue
            seen = self._seen.get(workload)
            if seen is None or seen.replicas == order.worker_count:
                continue
            if seen.is_held:
                left.append(f"{workload.name} is held by its annotation {HOLD_ANNOTATION}")
            elif await self._scale(workload, seen, order.worker_count):
                done.append(f"{workload.name}: {seen.replicas} → {order.worker_count}")
                seen.replicas = order.worker_count
            else:
                left.append(f"{workload.name} was changed by somebody else; looking again")
        return Outcome(done=tuple(done), left=tuple(left))

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

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
        found = await self._ask("GET", self._path(workload))
        replicas = 1 if found.spec.replicas is None else found.spec.replicas  # the API's default
        ready, now_s = min(found.status.readyReplicas, replicas), self._now_s()
        before = self._seen.get(workload)
        asked = [] if before is None else before.asked_s
        missing = replicas - ready
        asked = [*asked[:missing], *[now_s] * max(0, missing - len(asked))]
        held = found.metadata.annotations.get(HOLD_ANNOTATION) == "true"
        self._seen[workload] = _Seen(found.metadata.resourceVersion, replicas, held, asked)
        return PoolState(
            phase=workload.phase,
            kind=workload.kind,
            ready_count=ready,
            starting_s=tuple(now_s - moment for moment in asked),
            draining_count=max(0, (found.status.replicas or 0) - replicas),
            is_held=held,
        )

    async def _scale(self, workload: WorkloadSettings, seen: _Seen, count: int) -> bool:
        """Write a size unless the workload is no longer as it was read; False when it is not."""
        path = f"{self._path(workload)}/scale"
        scale = await self._ask("GET", path)
        if scale.spec.replicas != seen.replicas:
            return False
        body = {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": {
                "name": workload.name,
                "namespace": self._settings.namespace,
                "resourceVersion": scale.metadata.resourceVersion,
            },
            "spec": {"replicas": count},
        }
        try:
            await self._ask("PUT", path, body)
        except _Conflict:
            return False
        return True

    def _path(self, workload: WorkloadSettings) -> str:
        return _PATHS[workload.resource].format(namespace=self._settings.namespace, name=workload.name)

    async def _ask(self, method: str, path: str, body: object | None = None) -> _Workload:
        pause_s = self._settings.retry_s
        for left in reversed(range(self._settings.tries_max)):
            try:
                answer = await self._client.request(
                    method,
                    f"/{path}",
                    content=None if body is None else msgspec.json.encode(body),
                    headers=self._headers(),
                )
            except httpx.HTTPError as error:
                if left == 0:
                    raise TargetUnavailable(f"{method} {path}: {error!r}") from None
            else:
                if answer.status_code == 409:
                    raise _Conflict(path)
                if answer.is_success:
                    return _decoded(answer.content, path)
                if answer.status_code not in _TRY_AGAIN or left == 0:
                    raise TargetUnavailable(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
                pause_s = max(pause_s, _retry_after_s(answer))
            await asyncio.sleep(min(pause_s, RETRY_MAX_S))
            pause_s *= 2
        raise TargetUnavailable(f"{method} {path}: no try is left")

    def _headers(self) -> dict[str, str]:
        """Read the token anew each time: Kubernetes replaces it every hour."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        file = Path(self._settings.token_file)
        if file.exists():
            headers["Authorization"] = f"Bearer {file.read_text(encoding='utf-8').strip()}"
        return headers


class _Conflict(TargetUnavailable):
    """Somebody else wrote first."""


def _trust(ca_file: str) -> ssl.SSLContext:
    """Trust the service account's authorities, or the system's where there are none."""
    try:
        return ssl.create_default_context(cafile=ca_file if Path(ca_file).exists() else None)
    except ssl.SSLError as error:
        raise ConfigurationInvalid(
            key="target.ca_file", message=f"target.ca_file: {ca_file}: {error}"
        ) from None


def _decoded(content: bytes, path: str) -> _Workload:
    try:
        return msgspec.json.decode(content, type=_Workload)
    except msgspec.MsgspecError as error:
        raise TargetUnavailable(f"{path}: the answer is no workload: {error}") from None


def _retry_after_s(answer: httpx.Response) -> float:
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "0")))
    except ValueError:
        return 0.0
