"""What the values of the Helm chart are: its own keys, and where the programs' settings pass through.

Keys of the chart are written as Kubernetes writes its own (camelCase); keys of the programs stay as they are
in docs/settings.md (snake_case). Goes out: structs, from which `values.yaml` and `values.schema.json` are
made (`services.cli.chart.files`). Invariant: every field says what it means.
Not here: templates (`helm/baton/templates`), the settings themselves.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, field

from services.bus.settings import BusSettings
from services.cli.chart.keys import ChartSection
from services.cli.chart.surroundings import Monitoring, NetworkPolicy, PriorityClasses, Tls
from services.cli.chart.workloads import (
    Gateway,
    Images,
    Model,
    ModelCache,
    Nats,
    Planner,
    Pool,
    PoolDefaults,
    StandaloneRouter,
)
from services.engine.simulated.settings import SimulatedSettings
from services.engine.vllm.settings import VllmSettings
from services.gateway.edge.settings import EdgeSettings
from services.gateway.settings import ConductorSettings
from services.link.settings import LinkSettings
from services.prefill.settings import PrefillSettings
from services.router.settings import RouterSettings
from services.runtime.telemetry import LogFormat
from services.worker.settings import WorkerSettings

SET_BY_THE_CHART: dict[type, tuple[str, ...]] = {
    BusSettings: (
        "url", "namespace", "credentials_file", "user", "password_env", "token_env", "tls", "replicas",
    ),
    LinkSettings: ("host", "port", "advertised_host", "tls"),
    EdgeSettings: ("host", "http_port", "grpc_port", "metrics_port", "tls"),
    WorkerSettings: ("worker_id", "model", "engine", "phases", "prefill"),
    VllmSettings: (
        "kind", "model", "model_name", "side_channel_host", "side_channel_port",
    ),
    SimulatedSettings: ("kind", "side_channel_host"),
}  # fmt: skip
"""Settings that follow from the cluster's shape; values must not name them."""


class ProgramSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of all programs, with the keys of docs/settings.md."""

    log_format: LogFormat = LogFormat.JSON
    """How log lines look."""
    bus: BusSettings = BusSettings()
    """Timeouts and limits towards NATS."""
    link: LinkSettings = LinkSettings()
    """Watching over links between gateways and workers."""
    edge: EdgeSettings = EdgeSettings()
    """Bounds and patience of gateways."""
    conductor: ConductorSettings = ConductorSettings()
    """How a request is led."""
    router: RouterSettings = RouterSettings()
    """How it is placed: `ttft_target_s` and `tpot_target_s` are here."""
    prefill: PrefillSettings = PrefillSettings()
    """How prompts are claimed."""


class ChartValues(ChartSection, frozen=True, kw_only=True):
    """Values of the chart."""

    images: Images = Images()
    models: Annotated[list[Model], Meta(min_length=1)] = field(
        default_factory=lambda: [Model(name="baton-tiny")]
    )
    """Served models; the default is the one that the images hold."""
    settings: ProgramSettings = ProgramSettings()
    gateway: Gateway = Gateway()
    router: StandaloneRouter = StandaloneRouter()
    pool_defaults: PoolDefaults = PoolDefaults()
    pools: Annotated[list[Pool], Meta(min_length=1)] = field(
        default_factory=lambda: [Pool(name="prefill", role="prefill"), Pool(name="decode", role="decode")]
    )
    """Pools of workers, any number, each with the keys of `poolDefaults` and a name."""
    planner: Planner = Planner()
    nats: Nats = Nats()
    model_cache: ModelCache = ModelCache()
    tls: Tls = Tls()
    network_policy: NetworkPolicy = NetworkPolicy()
    priority_classes: PriorityClasses = PriorityClasses()
    monitoring: Monitoring = Monitoring()
