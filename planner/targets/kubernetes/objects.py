"""The parts of Kubernetes' objects that the planner reads.

Comes in: JSON of the API server. Goes out: frozen values. Invariant: a field that is not read here does not
matter to any decision. Not here: requests (`api`).

Names are those of the API reference: apps/v1, leaderworkerset.x-k8s.io/v1, autoscaling/v1 Scale,
coordination.k8s.io/v1 Lease, meta/v1 List, WatchEvent and Status.
"""

from typing import TypeVar

import msgspec

from planner.targets.port import TargetUnavailable

T = TypeVar("T")


class _Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An object of the API."""


class Metadata(_Object, frozen=True, kw_only=True):
    """What every object and every list has."""

    resource_version: str = ""
    """Text that changes with each write; only equality means anything."""
    annotations: dict[str, str] = {}


class Replicas(_Object, frozen=True, kw_only=True):
    """Sizes, in `spec` and in `status`."""

    replicas: int | None = None
    ready_replicas: int = 0


class Workload(_Object, frozen=True, kw_only=True):
    """A Deployment, StatefulSet or LeaderWorkerSet, or the Scale of one."""

    metadata: Metadata
    spec: Replicas = Replicas()
    status: Replicas = Replicas()

    @property
    def size(self) -> int:
        """Workers that are ordered; the API's default is one."""
        return 1 if self.spec.replicas is None else self.spec.replicas


class Workloads(_Object, frozen=True, kw_only=True):
    """A list of them."""

    metadata: Metadata
    items: tuple[Workload, ...] = ()


class Status(_Object, frozen=True, kw_only=True):
    """What went wrong."""

    code: int = 0
    reason: str = ""
    message: str = ""


class Event(_Object, frozen=True, kw_only=True):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


class LeaseSpec(_Object, frozen=True, kw_only=True):
    """Who leads; times are texts that are written and compared, never read as times."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(_Object, frozen=True, kw_only=True):
    """A Lease."""

    metadata: Metadata
    spec: LeaseSpec = LeaseSpec()


def decoded(content: bytes | msgspec.Raw, type_: type[T], what: str) -> T:
    """Decode an answer.

    Args:
        content: JSON.
        type_: what it should hold.
        what: was asked for.

    Raises:
        TargetUnavailable: it holds something else.
    """
    try:
        return msgspec.json.decode(content, type=type_)
    except msgspec.MsgspecError as error:
        raise TargetUnavailable(f"{what}: the answer is not understood: {error}") from None
