"""Values of the chart about what runs: images, models, gateways, pools of workers, the router, NATS.

A field that holds settings of a program is typed by that program's own struct.
Not here: what surrounds them (`surroundings`), the whole (`values`).
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from planner.settings import PlannerSettings
from services.cli.chart.keys import (
    ChartSection,
    Count,
    Name,
    Object,
    Positive,
    Quantity,
    SecretKey,
    Storage,
    Texts,
)
from services.engine.simulated.settings import SimulatedSettings
from services.engine.vllm.settings import VllmSettings
from services.worker.settings import WorkerSettings


def _sized(cpu: str, memory: str, memory_max: str) -> Any:
    """Requests and limits by default; no limit of CPU, since it would show in the time of every token."""
    return field(
        default_factory=lambda: {
            "requests": {"cpu": cpu, "memory": memory},
            "limits": {"memory": memory_max},
        }
    )


_BY_NODE: Object = {
    "maxSkew": 1,
    "topologyKey": "kubernetes.io/hostname",
    "whenUnsatisfiable": "ScheduleAnyway",
}


class Image(ChartSection, frozen=True, kw_only=True):
    """An image, by tag or by digest."""

    repository: str = ""
    """With its registry."""
    tag: str = ""
    """Empty takes the chart's `appVersion`."""
    digest: str = ""
    """`sha256:...`, wins over the tag."""


class Images(ChartSection, frozen=True, kw_only=True):
    """Built from `helm/images/Dockerfile`."""

    control: Image = Image(repository="baton-control")
    """Gateway, router, NATS, the loading of weights, simulated engines."""
    cpu: Image = Image(repository="baton-cpu")
    """Workers without GPUs."""
    gpu: Image = Image(repository="baton-gpu")
    """Workers with GPUs."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes fetch them."""
    pull_secrets: list[str] = []
    """Names of Secrets with registry credentials."""


class Source(ChartSection, frozen=True, kw_only=True):
    """Where weights come from."""

    hub: str = ""
    """Name on the model hub, as `organisation/model`; empty loads nothing."""
    revision: str = ""
    """Commit or tag; part of the folder's name, so that an upgrade never changes weights under a worker."""


class Model(ChartSection, frozen=True, kw_only=True):
    """One served model."""

    name: Annotated[str, Meta(min_length=1)]
    """Name that clients ask for."""
    folder: str = ""
    """Folder of weights and tokenizer in the containers; empty takes what `source` loads, and without a
    source the tiny model of the images."""
    source: Source = Source()
    """Loaded once, into the model cache, before workers start."""


class Pods(ChartSection, frozen=True, kw_only=True):
    """Pods of one kind."""

    resources: Object = {}
    """Requests and limits of the container."""
    env: list[Object] = []
    """Further environment variables."""
    annotations: Texts = {}
    """Of the pods; networks for RDMA are often asked for here."""
    labels: Texts = {}
    """Further labels of the pods."""
    node_selector: Texts = {}
    """Labels of the nodes to run on."""
    tolerations: list[Object] = []
    """Taints to bear."""
    affinity: Object = {}
    """Affinity and anti-affinity."""
    topology_spread: list[Object] = field(default_factory=lambda: [dict(_BY_NODE)])
    """Topology spread constraints; the label selector is filled in."""
    priority_class_name: str = ""
    """Empty takes the chart's own class if `priorityClasses.enabled`."""


class Gpu(ChartSection, frozen=True, kw_only=True):
    """Accelerators of one pod."""

    resource: str = "nvidia.com/gpu"
    """Name of the extended resource."""
    count: Count = 0
    """How many; 0 runs the engine on the CPU."""


class Rdma(ChartSection, frozen=True, kw_only=True):
    """Network devices for the KV hand-over."""

    resource: str = ""
    """Name of the extended resource, such as rdma/hca; empty asks for none."""
    count: Positive = 1
    """How many."""


class PoolDefaults(Pods, frozen=True, kw_only=True):
    """One pool of workers; a pool overrides what it names."""

    resources: Object = _sized("2", "3Gi", "6Gi")
    """Requests and limits of the container."""
    role: Literal["prefill", "decode", "both"] = "both"
    """Phases that its workers take work for."""
    replicas: Count = 1
    """Workers."""
    model: str = ""
    """Name of a model of `models`; empty takes the first."""
    engine: Literal["vllm", "simulated"] = "vllm"
    """`simulated` computes nothing and needs neither weights nor GPUs."""
    vllm: VllmSettings | None = None
    """Engine settings, as in docs/settings.md. With GPUs the chart starts from values that suit them, and
    `performance` must be given."""
    simulated: SimulatedSettings | None = None
    """Settings of a simulated engine."""
    worker: WorkerSettings | None = None
    """Settings of the worker around the engine."""
    drain_timeout_seconds: Positive = 60
    """Longest wait for running requests when a pod ends, above `lease_s`; the grace period is derived."""
    nodes: Positive = 1
    """Machines that one worker spans, a pod on each; above 1 the pool is a LeaderWorkerSet."""
    gpu: Gpu = Gpu()
    """Accelerators of each pod; a worker has those of all its machines."""
    rdma: Rdma = Rdma()
    """RDMA devices of each pod."""
    shared_memory: Quantity = "1Gi"
    """Size of /dev/shm, part of the memory limit."""
    image: Image = Image()
    """Another image than that of `images`."""
    runtime_class_name: str = ""
    """Container runtime, where GPUs need one."""
    max_unavailable: Count = 1
    """Workers that an upgrade may take away at one time; 0 needs spare nodes for `maxSurge`."""
    max_surge: Count = 0
    """Workers that an upgrade may add."""


class Pool(PoolDefaults, frozen=True, kw_only=True):
    """One pool."""

    name: Name
    """Part of its objects' names."""


class Service(ChartSection, frozen=True, kw_only=True):
    """How clients reach gateways."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Type of the Service."""
    annotations: Texts = {}
    """For load balancers."""


class Ingress(ChartSection, frozen=True, kw_only=True):
    """HTTP from outside, with TLS ending there."""

    enabled: bool = False
    """Make an Ingress."""
    class_name: str = ""
    """Which controller."""
    host: str = ""
    """Name that clients use."""
    tls_secret_name: str = ""
    """Certificate of that name; empty serves plain HTTP."""
    annotations: Texts = {}
    """For the controller; switch response buffering off, set its timeouts above `edge.deadline_s_max`, and
    with `tls.edge` tell it to speak HTTPS to gateways."""


class HttpRoute(ChartSection, frozen=True, kw_only=True):
    """The same through the Gateway API."""

    enabled: bool = False
    """Make an HTTPRoute."""
    parent_refs: list[Object] = []
    """Gateways to attach to."""
    hostnames: list[str] = []
    """Names that clients use."""


class Gateway(Pods, frozen=True, kw_only=True):
    """Gateways: HTTP on 8000, gRPC on 8001, metrics and probes on 9090."""

    replicas: Positive = 2
    """How many; with two, clients that retry lose nothing to one that ends."""
    resources: Object = _sized("1", "512Mi", "2Gi")
    """Requests and limits of the container."""
    service: Service = Service()
    ingress: Ingress = Ingress()
    http_route: HttpRoute = HttpRoute()


class StandaloneRouter(Pods, frozen=True, kw_only=True):
    """A router of its own; otherwise each gateway holds one."""

    enabled: bool = False
    """Run it."""
    resources: Object = _sized("1", "512Mi", "2Gi")
    """Requests and limits of the container."""


class PlannedPool(ChartSection, frozen=True, kw_only=True):
    """A pool that the planner scales; its role is prefill or decode."""

    name: str
    """Name of the pool."""
    kind: str = "default"
    """Kind of its workers, as in `settings.kinds`."""


class Planner(Pods, frozen=True, kw_only=True):
    """Keeps pools at the size that holds the targets at the least cost (docs/planner.md)."""

    enabled: bool = False
    """Run it. Its account may read the pools named here and scale them, and nothing else."""
    replicas: Positive = 1
    """How many; one acts, the others stand by and one of them goes on within 20 s of its end."""
    pools: list[PlannedPool] = []
    """What it scales; their `replicas` are then its own."""
    prometheus_url: str = ""
    """A Prometheus that scrapes this release; empty asks the gateway, of which there must then be one."""
    settings: PlannerSettings | None = None
    """How it decides; targets are those of `settings.router` unless they are named."""
    resources: Object = _sized("100m", "128Mi", "512Mi")
    """Requests and limits of the container."""


class Nats(Pods, frozen=True, kw_only=True):
    """The message bus."""

    enabled: bool = True
    """Run NATS here; otherwise `url` names one."""
    url: str = ""
    """An existing NATS with JetStream, such as nats://nats.messaging:4222."""
    replicas: Literal[1, 3, 5] = 1
    """Servers, and copies of queue and fleet. With 3 one may fail."""
    storage: Storage = Storage()
    user: str = "baton"
    """User name, used with `password`."""
    password: SecretKey = SecretKey()
    """Password, beginning with a letter (NATS reads it through its configuration); without one nobody logs
    in and the network policy alone protects the bus."""
    credentials: SecretKey = SecretKey()
    """Credentials file (JWT and key) for an existing NATS, instead of a password."""
    resources: Object = _sized("500m", "512Mi", "2Gi")
    """Requests and limits of the container."""


class ModelCache(ChartSection, frozen=True, kw_only=True):
    """A volume with weights, read by gateways and workers."""

    enabled: bool = False
    """Mount it."""
    existing_claim: str = ""
    """A claim that exists; empty makes one."""
    mount_path: str = "/models"
    """Where containers see it."""
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany"] = "ReadWriteMany"
    """ReadWriteOnce only where everything runs on one node."""
    storage: Storage = Storage(size="100Gi")
    token: SecretKey = SecretKey()
    """Access token of the model hub."""
    resources: Object = _sized("1", "2Gi", "8Gi")
    """Of the loading job."""
