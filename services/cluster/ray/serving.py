"""What is asked of Ray Serve: deploy, tell the state of, and delete applications.

Comes in: planned applications, names. Goes out: plain values. Invariant: only the named applications are
touched. Every call blocks, so they belong in a thread, after `services.cluster.ray.session` connected.
Not here: what a replica runs.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ray import serve
from ray.exceptions import RayError
from ray.serve.api import RunTarget
from ray.serve.exceptions import RayServeException

from services.cluster.ray.applications import build
from services.cluster.ray.plan import Application
from services.cluster.ray.settings import Part
from services.cluster.settings import ClusterSettings
from services.domain.errors import EngineFailed

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 10.0
"""Longest wait for a replica's answer; seconds."""

_FAILED = "DEPLOY_FAILED"
_RUNNING = "RUNNING"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How one application is.

    Attributes:
        running_count: replicas that serve.
        status: Serve's word for the deployment: HEALTHY, UPDATING, UNHEALTHY.
        has_failed: Serve gave up starting it.
        message: why, in Serve's words.
    """

    running_count: int
    status: str
    has_failed: bool
    message: str


def deploy(settings: ClusterSettings, planned: Sequence[Application]) -> None:
    """Deploy applications beside those that are there; returns before their replicas serve.

    Raises:
        EngineFailed: Serve refuses, or does not answer.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # progress is told in our own words
    try:
        serve.start(proxy_location="Disabled")  # only where Serve does not run yet
        serve.run_many(
            [
                RunTarget(
                    target=build(settings, application),
                    name=application.name,
                    route_prefix=None,
                    external_scaler_enabled=application.part is not Part.GATEWAY,
                )
                for application in planned
            ],
            wait_for_applications_running=False,
            wait_for_ingress_deployment_creation=False,
        )
    except (RayError, RayServeException, ConnectionError) as error:
        raise EngineFailed(
            worker_id="serve", message=f"Ray Serve did not take the cluster: {error}"
        ) from None


def states(names: Sequence[str]) -> Mapping[str, State]:
    """Tell how applications are; one that is not there is left out.

    Raises:
        EngineFailed: Ray does not answer.
    """
    try:
        found = serve.status().applications
    except (RayError, RayServeException, ConnectionError) as error:
        raise EngineFailed(worker_id="serve", message=f"Ray Serve does not answer: {error}") from None
    return {
        name: State(
            running_count=sum(
                part.replica_states.get(_RUNNING, 0)  # type: ignore[call-overload]  # an enum of strings
                for part in found[name].deployments.values()
            ),
            status="/".join(part.status.value for part in found[name].deployments.values()),
            has_failed=found[name].status.value == _FAILED,
            message=" ".join(part.message for part in found[name].deployments.values())
            or found[name].message,
        )
        for name in names
        if name in found
    }


def gateway_address(name: str) -> tuple[str, tuple[int, ...]]:
    """Ask one gateway for its host and its ports: HTTP, gRPC, metrics.

    Raises:
        EngineFailed: none answers.
    """
    try:
        answer = serve.get_app_handle(name).address.remote().result(timeout_s=ANSWER_TIMEOUT_S)
    except (RayError, RayServeException, TimeoutError) as error:
        raise EngineFailed(worker_id=name, message=f"no gateway of {name} answers: {error}") from None
    host, ports = answer
    return host, ports


def delete(names: Sequence[str]) -> None:
    """Delete applications at the same time; their replicas drain first. What is not there is left out."""
    with ThreadPoolExecutor(max_workers=max(1, len(names))) as threads:
        list(threads.map(_delete, names))


def _delete(name: str) -> None:
    try:
        serve.delete(name)
    except (RayError, RayServeException, ConnectionError) as error:
        log.warning("%s was not deleted: %s", name, error)
    except SystemExit:  # how Ray says in a thread that the session was closed meanwhile
        log.warning("%s was not deleted in order", name)


def shut_down() -> None:
    """End Serve itself, on a cluster of our own."""
    serve.shutdown()  # type: ignore[no-untyped-call]  # Ray's
