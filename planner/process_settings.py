"""Settings of a planner process: what it watches, what it scales, how it decides."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from planner.observers.settings import GatewaysSettings, PrometheusSettings
from planner.settings import PlannerSettings
from planner.targets.kubernetes.settings import KubernetesSettings
from planner.targets.local_settings import LocalSettings
from planner.targets.ray_settings import RayServeSettings
from services.bus.settings import BusSettings
from services.domain.errors import ConfigurationInvalid
from services.domain.worker import Phase
from services.runtime.telemetry import LogFormat


class DryRunSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="target", tag="dry-run"
):
    """Nothing is scaled; decisions are logged."""


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
