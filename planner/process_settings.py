"""Settings of a planner process: what it watches, what it scales, how it decides."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from planner.settings import PlannerSettings
from planner.targets.local_settings import LocalSettings
from planner.targets.ray_settings import RayServeSettings
from services.bus.settings import BusSettings
from services.domain.errors import ConfigurationInvalid
from services.domain.worker import Phase
from services.runtime.telemetry import LogFormat

_Positive = Annotated[float, msgspec.Meta(gt=0)]


class GatewaysSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="source", tag="gateways"
):
    """Demand from the gateways' own `/metrics`, workers and queue over NATS."""

    urls: tuple[str, ...] = ("http://127.0.0.1:8000/metrics",)
    """Metrics of every gateway. One that does not answer is left out; none that answers is no observation."""

    bus: BusSettings | None = None
    """How NATS is reached; null: only gateways are watched, and pools are the scale target's."""

    request_timeout_s: _Positive = 5.0
    """For an answer of a gateway."""


class PrometheusSettings(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="source",
    tag="prometheus",
):
    """Everything from a Prometheus server."""

    url: str
    """Base of its HTTP API, such as http://prometheus:9090."""

    window_s: _Positive = 30.0
    """Window of every rate. At least two scrapes, or nothing can be told of it."""

    selector: str = ""
    """Label matchers that every query carries, such as `namespace="llm"`."""

    token_env: str | None = None
    """Environment variable with a bearer token."""

    request_timeout_s: _Positive = 5.0
    """For one answer."""


class DryRunSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="target", tag="dry-run"
):
    """Nothing is scaled; decisions are logged."""


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


class PlannerProcessSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One planner."""

    planner: PlannerSettings = PlannerSettings()
    """How it decides."""

    observe: GatewaysSettings | PrometheusSettings = GatewaysSettings()
    """Where it sees demand."""

    target: DryRunSettings | KubernetesSettings | LocalSettings | RayServeSettings = DryRunSettings()
    """What it scales."""

    bus: BusSettings | None = None
    """How NATS is reached, over which workers are turned; null takes `observe.bus`."""

    decisions_file: str | None = None
    """Where every decision is kept, one JSON object per line; null keeps none."""

    decisions_bytes_max: Annotated[int, msgspec.Meta(ge=4096)] = 16 * 1024 * 1024
    """Size at which that file is put aside as FILE.1, in place of the one before."""

    metrics_port: int | None = 0
    """Port of `/metrics`, `/health/live` and `/health/ready`; 0 chooses one, null serves none."""

    metrics_host: str = "127.0.0.1"
    """Address to listen on for them."""

    ports_file: str | None = None
    """Where the chosen metrics port is written as a JSON list, for whoever asked for port 0."""

    log_format: LogFormat = LogFormat.TEXT
    """How log lines look."""

    parent_pid: int | None = None
    """End when this process ends; set by whoever starts the process and outlives it."""

    def __post_init__(self) -> None:
        """Refuse what cannot go together.

        Raises:
            ConfigurationInvalid: names the key.
        """
        if isinstance(self.target, LocalSettings) and self.planner.kind_named(self.target.kind) is None:
            raise ConfigurationInvalid(
                key="target.kind", message=f"target.kind: planner.kinds has no kind {self.target.kind!r}"
            )
        match self.target:
            case KubernetesSettings(workloads=pools):
                key, pool_word = "target.workloads", "workload"
            case RayServeSettings(deployments=pools):
                key, pool_word = "target.deployments", "deployment"
            case _:
                return
        if self.planner.limits.flips:
            self._check_flips(pool_word, [(pool.phase, pool.kind) for pool in pools])
        for pool in pools:
            if self.planner.kind_named(pool.kind) is None:
                raise ConfigurationInvalid(
                    key=f"{key}.kind", message=f"{key}.kind: planner.kinds has no kind {pool.kind!r}"
                )

    @property
    def worker_bus(self) -> BusSettings | None:
        """Where workers announce themselves and are turned, if that is known."""
        observed = self.observe.bus if isinstance(self.observe, GatewaysSettings) else None
        return self.bus or observed

    def _check_flips(self, pool_word: str, pools: Sequence[tuple[Phase, str]]) -> None:
        """Refuse flips that could not be ordered, or whose workers could not be told apart."""
        reason = None
        if self.worker_bus is None:
            reason = "workers are turned over NATS, and neither bus nor observe.bus is set"
        elif len(pools) != len(Phase) or len({kind for _phase, kind in pools}) > 1:
            reason = f"that takes one {pool_word} for prefill and one for decode, of the same kind"
        if reason is not None:
            raise ConfigurationInvalid(
                key="planner.limits.flips", message=f"planner.limits.flips: must be false: {reason}"
            )
