"""Settings of Kubernetes as a scale target, and of the Lease by which one of several planners acts."""

from typing import Annotated, Literal

import msgspec

from services.domain.errors import ConfigurationInvalid
from services.domain.worker import Phase

_Positive = Annotated[float, msgspec.Meta(gt=0)]


class WorkloadSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One workload of Kubernetes: the workers of one role and kind."""

    phase: Phase
    """Role of its workers."""

    name: str
    """Of the workload."""

    kind: str = "default"
    """Kind of its workers, as in `planner.kinds`."""

    resource: Literal["deployment", "statefulset", "leaderworkerset"] = "deployment"
    """What it is."""


class LeaseSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which of several planners acts: the holder of a Lease, as client-go elects leaders."""

    name: str
    """Of the Lease, in the namespace of the workloads. It must be there; an empty one will do."""

    identity: str = ""
    """Of this planner; empty takes the host's name and a few random digits."""

    lease_s: Annotated[int, msgspec.Meta(ge=2)] = 15
    """How long others wait for a renewal, by their own clocks."""

    renew_within_s: _Positive = 10.0
    """How long after its last renewal the holder acts; the rest of `lease_s` is for clocks that differ."""

    retry_s: _Positive = 2.0
    """Time between two renewals, or two looks at who leads."""

    def __post_init__(self) -> None:
        """Refuse times in which the lease could not be kept, or two could hold it.

        Raises:
            ConfigurationInvalid: names the key.
        """
        if self.renew_within_s >= self.lease_s:
            key, most = "renew_within_s", f"lease_s, {self.lease_s} s"
        elif self.retry_s >= self.renew_within_s:
            key, most = "retry_s", f"renew_within_s, {self.renew_within_s:g} s"
        else:
            return
        raise ConfigurationInvalid(
            key=f"target.lease.{key}", message=f"target.lease.{key}: must be less than {most}"
        )


class KubernetesSettings(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="target",
    tag="kubernetes",
):
    """Workloads of one namespace, scaled by their scale subresource."""

    namespace: str
    """Where the workloads are."""

    workloads: tuple[WorkloadSettings, ...]
    """All that the planner scales."""

    api_url: str = "https://kubernetes.default.svc"
    """The API server, as pods see it."""

    token_file: str = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # where Kubernetes puts it
    """Token of the service account; read anew for each request, since it is replaced."""

    ca_file: str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
    """Authorities that may sign the server; the system's where the file is missing."""

    request_timeout_s: _Positive = 5.0
    """For one answer."""

    tries_max: Annotated[int, msgspec.Meta(ge=1)] = 4
    """Tries of one request that the server asks to repeat, or that gets no answer."""

    retry_s: _Positive = 0.5
    """Pause before the second try; doubled with each, and at least what the server asks for."""

    requests_per_s: _Positive = 5.0  # client-go's default, with the burst below
    """Requests sent for long, over all workloads; those for the lease count by themselves."""

    requests_burst: Annotated[int, msgspec.Meta(ge=1)] = 10
    """Requests sent at once."""

    watch_s: Annotated[float, msgspec.Meta(ge=1)] = 60.0
    """Length of one watch; a connection that was lost without a word is noticed after it."""

    lease: LeaseSettings | None = None
    """Elects one of several planners; null: this is the only one."""

    def __post_init__(self) -> None:
        """Refuse workloads that are not told apart.

        Raises:
            ConfigurationInvalid: names the key.
        """
        pools = [(workload.phase, workload.kind) for workload in self.workloads]
        if not pools:
            raise ConfigurationInvalid(key="target.workloads", message="target.workloads: name at least one")
        if len(set(pools)) != len(pools):
            raise ConfigurationInvalid(
                key="target.workloads", message="target.workloads: one workload per phase and kind"
            )
