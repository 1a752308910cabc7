"""Settings of a worker process: which engine, which phases, how it is seen."""

import msgspec

from services.bus.settings import BusSettings
from services.domain.errors import ConfigurationInvalid
from services.domain.worker import Phase
from services.engine.simulated.settings import SimulatedSettings
from services.engine.vllm.settings import VllmSettings
from services.link.settings import LinkSettings
from services.prefill.settings import PrefillSettings
from services.runtime.telemetry import LogFormat


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One worker."""

    worker_id: str
    """Name, unique in the cluster; shown in decisions and logs."""

    model: str
    """Name under which clients ask for the model."""

    engine: SimulatedSettings | VllmSettings
    """Which engine, told by its `kind`, and its own settings."""

    phases: tuple[Phase, ...] = (Phase.PREFILL, Phase.DECODE)
    """Phases it takes work for. Both: a soft-roled worker."""

    prefill: PrefillSettings = PrefillSettings()
    """How it takes tasks from the queue."""

    status_period_s: float = 0.25
    """Time between statuses; seconds. Short, since routing lives on it: a status is one small message."""

    status_ttl_s: float = 10.0
    """After this long without a status the worker is out of the fleet; seconds. Long, because a stall of a
    busy machine is no death, and gateways notice a real one at once by their broken links."""

    warm_up_tokens: int = 1024
    """Prompt computed before the worker joins, so that no client pays for what an engine does once; tokens.
    About a step of prefill. 0 skips it."""

    health_period_s: float = 1.0
    """Time between questions to the engine whether it still steps; seconds."""

    kv_mismatches_max: int = 3
    """As many pulls that brought other KV than was computed, within `kv_mismatch_window_s`, and the worker
    gives itself up to be restarted. One is found and mended without that; three are no chance: at a memory's
    usual error rates years lie between two."""

    kv_mismatch_window_s: float = 600.0
    """How long such a pull counts; seconds."""

    def __post_init__(self) -> None:
        if not self.worker_id or not self.model:
            raise ConfigurationInvalid(key="worker_id", message="worker_id and model must not be empty")
        if not self.phases or len(set(self.phases)) != len(self.phases):
            raise ConfigurationInvalid(
                key="phases", message="phases must name prefill, decode or both, each once"
            )
        if not 0 < self.status_period_s < self.status_ttl_s:
            raise ConfigurationInvalid(
                key="status_ttl_s", message="status_ttl_s must be longer than status_period_s, both above 0"
            )
        if self.warm_up_tokens < 0:
            raise ConfigurationInvalid(key="warm_up_tokens", message="warm_up_tokens must not be negative")
        if self.kv_mismatches_max < 1 or self.kv_mismatch_window_s <= 0:
            raise ConfigurationInvalid(
                key="kv_mismatches_max", message="kv_mismatches_max and kv_mismatch_window_s must be above 0"
            )
        if self.health_period_s <= 0:
            raise ConfigurationInvalid(key="health_period_s", message="health_period_s must be above 0")


class WorkerProcessSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One process: one vLLM worker, or any number of simulated ones."""

    workers: tuple[WorkerSettings, ...]
    """Workers of this process."""

    bus: BusSettings
    """How NATS is reached."""

    link: LinkSettings = LinkSettings()
    """Where gateways reach the workers; with several workers the port must be 0 (chosen freely)."""

    drain_timeout_s: float = 60.0
    """Longest wait for running requests after the first signal; seconds. Above the KV lease."""

    metrics_port: int | None = 0
    """Port of `/metrics`, `/health/live` and `/health/ready` on the link's host; 0 chooses one, none
    serves none."""

    ports_file: str | None = None
    """Where the chosen metrics port is written as a JSON list, for whoever asked for port 0."""

    log_format: LogFormat = LogFormat.TEXT
    """How log lines look."""

    parent_pid: int | None = None
    """End when this process ends; set by whoever starts the process and outlives it."""

    def __post_init__(self) -> None:
        real = [w for w in self.workers if isinstance(w.engine, VllmSettings)]
        if not self.workers or (real and len(self.workers) > 1):
            raise ConfigurationInvalid(
                key="workers", message="a process holds one vLLM worker, or one or more simulated ones"
            )
