"""Ray Serve: pools are deployments whose application lets an external scaler in.

Comes in: decisions. Goes out: pools, sentences. Invariants: an application with `external_scaler_enabled:
false` is held by a person and never written; a deployment whose size is not the one that was decided upon is
left alone; requests end after `request_timeout_s` and are tried at most `tries_max` times. Replicas drain
when Serve shuts them down. Not here: which replicas go (Serve), roles of running workers (fixed per
deployment).

Protocol (Ray 2.60, `dashboard/modules/serve/serve_head.py`): GET `/api/serve/applications/`; POST
`/api/v1/applications/{application}/deployments/{deployment}/scale`, 412 when the application is held. A write
carries no version: between the read right before it and the write a person's change can be lost.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from planner.decision import Decision, PoolOrder
from planner.observation import PoolState
from planner.targets.port import Outcome, TargetUnavailable
from planner.targets.ray_settings import DeploymentSettings, RayServeSettings

APPLICATIONS = "/api/serve/applications/"
SCALE = "/api/v1/applications/{application}/deployments/{deployment}/scale"
RETRY_MAX_S = 10.0
"""Longest pause between two tries, whatever the server asks for; seconds."""

_TRY_AGAIN = frozenset({429, 500, 502, 503, 504})
_HELD = 412
_SERVING = frozenset({"RUNNING", "PENDING_MIGRATION"})
"""States of replicas that answer."""
_STOPPING = "STOPPING"


class _Replica(msgspec.Struct, frozen=True):
    state: str


class _Deployment(msgspec.Struct, frozen=True):
    target_num_replicas: int
    replicas: list[_Replica] = []

    def count(self, *states: str) -> int:
        """Count replicas in some states."""
        return sum(replica.state in states for replica in self.replicas)


class _Application(msgspec.Struct, frozen=True):
    external_scaler_enabled: bool = False
    deployments: dict[str, _Deployment] = {}


class _Applications(msgspec.Struct, frozen=True):
    applications: dict[str, _Application] = {}


@dataclass(slots=True)
class _Seen:
    """A deployment as last read."""

    replicas: int
    missed_s: list[float]
    """When each worker that is not ready yet was first missed."""


class _Held(TargetUnavailable):
    """A person keeps the application as it is."""


class RayServe:
    """Scales deployments of one Ray cluster."""

    def __init__(
        self,
        settings: RayServeSettings,
        *,
        now_s: Callable[[], float],
        client: httpx.AsyncClient | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            settings: where Serve's REST API is, and the deployments.
            now_s: the planner's clock.
            client: to that API; None makes one.
        """
        self._settings = settings
        self._now_s = now_s
        self._client = client or httpx.AsyncClient(
            base_url=settings.url, timeout=settings.request_timeout_s, trust_env=False
        )
        self._seen: dict[DeploymentSettings, _Seen] = {}

    async def pools(self) -> tuple[PoolState, ...]:
        """Read all deployments."""
        applications = await self._applications()
        return tuple(self._pool(each, applications) for each in self._settings.deployments)

    async def carry_out(self, decision: Decision) -> Outcome:
        """Write the size of every deployment that is to have another one."""
        done: list[str] = []
        left: list[str] = [
            f"{flip.source.value} of kind {flip.kind} nobody turns without a bus" for flip in decision.flips
        ]
        for order in decision.orders:
            deployment = self._deployment(order)
            if deployment is None:
                if order.worker_count > 0:
                    left.append(f"no deployment is named for {order.phase.value} of kind {order.kind}")
                continue
            seen = self._seen.get(deployment)
            if seen is None or seen.replicas == order.worker_count:
                continue
            hindrance = await self._scale(deployment, seen.replicas, order.worker_count)
            if hindrance is None:
                done.append(f"{deployment.application}: {seen.replicas} → {order.worker_count}")
                seen.replicas = order.worker_count
            else:
                left.append(f"{deployment.application} {hindrance}")
        return Outcome(done=tuple(done), left=tuple(left))

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    def _deployment(self, order: PoolOrder) -> DeploymentSettings | None:
        return next(
            (
                each
                for each in self._settings.deployments
                if (each.phase, each.kind) == (order.phase, order.kind)
            ),
            None,
        )

    def _pool(self, deployment: DeploymentSettings, applications: Mapping[str, _Application]) -> PoolState:
        application, found = _find(deployment, applications)
        size, now_s = found.target_num_replicas, self._now_s()
        serving = found.count(*_SERVING)
        ready = min(serving, size)
        missing = size - ready
        before = self._seen.get(deployment)
        missed = [] if before is None else before.missed_s
        missed = [*missed[:missing], *[now_s] * max(0, missing - len(missed))]
        self._seen[deployment] = _Seen(size, missed)
        return PoolState(
            phase=deployment.phase,
            kind=deployment.kind,
            ready_count=ready,
            starting_s=tuple(now_s - moment_s for moment_s in missed),
            draining_count=found.count(_STOPPING) + serving - ready,
            is_held=not application.external_scaler_enabled,
        )

    async def _scale(self, deployment: DeploymentSettings, before: int, count: int) -> str | None:
        """Write a size unless somebody stands in the way; returns who or what did."""
        application, found = _find(deployment, await self._applications())
        if not application.external_scaler_enabled:
            return _HOLD_WORDS
        if found.target_num_replicas != before:
            return "was changed by somebody else; looking again"
        path = SCALE.format(application=deployment.application, deployment=deployment.name)
        try:
            await self._ask("POST", path, {"target_num_replicas": count})
        except _Held:
            return _HOLD_WORDS
        return None

    async def _applications(self) -> Mapping[str, _Application]:
        content = await self._ask("GET", APPLICATIONS)
        try:
            return msgspec.json.decode(content, type=_Applications).applications
        except msgspec.MsgspecError as error:
            raise TargetUnavailable(f"{APPLICATIONS}: the answer is not understood: {error}") from None

    async def _ask(self, method: str, path: str, body: object | None = None) -> bytes:
        pause_s = self._settings.retry_s
        for left in reversed(range(self._settings.tries_max)):
            try:
                answer = await self._client.request(
                    method,
                    path,
                    content=None if body is None else msgspec.json.encode(body),
                    headers=self._headers(),
                )
            except httpx.HTTPError as error:
                if left == 0:
                    raise TargetUnavailable(f"{method} {path}: {error!r}") from None
            else:
                if answer.is_success:
                    return answer.content
                if answer.status_code == _HELD:
                    raise _Held(path)
                if answer.status_code not in _TRY_AGAIN or left == 0:
                    raise TargetUnavailable(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
                pause_s = max(pause_s, _retry_after_s(answer))
            await asyncio.sleep(min(pause_s, RETRY_MAX_S))
            pause_s *= 2
        raise TargetUnavailable(f"{method} {path}: no try is left")

    def _headers(self) -> dict[str, str]:
        """Send Ray's token, found as Ray finds it; an operator may replace it at any time."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        token = os.environ.get("RAY_AUTH_TOKEN", "")
        file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or self._settings.token_file).expanduser()
        if not token and file.exists():
            token = file.read_text(encoding="utf-8").strip()
        return headers | ({"Authorization": f"Bearer {token}"} if token else {})


_HOLD_WORDS = "is held: external_scaler_enabled is false"


def _find(
    deployment: DeploymentSettings, applications: Mapping[str, _Application]
) -> tuple[_Application, _Deployment]:
    application = applications.get(deployment.application)
    found = None if application is None else application.deployments.get(deployment.name)
    if application is None or found is None:
        raise TargetUnavailable(f"Serve has no deployment {deployment.name} in {deployment.application}")
    return application, found


def _retry_after_s(answer: httpx.Response) -> float:
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "0")))
    except ValueError:
        return 0.0
