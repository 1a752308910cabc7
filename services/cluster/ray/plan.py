"""From a cluster's settings to Serve applications, and from a replica's place to its process: pure.

Comes in: `ClusterSettings`; for a replica, where Ray put it. Goes out: one `Application` per part, and the
`ProcessSpec` that a replica runs, with the settings file that it would also read elsewhere. Invariant: what
follows from the cluster's settings is the same on every node; what only a replica knows is its `Place`.
Not here: Ray.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from services.bus.settings import BusSettings
from services.cluster.plan import ModelFacts, ProcessSpec, watched_edge, worker_of
from services.cluster.ray.settings import Part
from services.cluster.settings import ClusterSettings, EngineKind
from services.domain.errors import ConfigurationInvalid
from services.domain.worker import Phase
from services.engine.simulated.settings import SimulatedSettings
from services.engine.vllm.settings import VllmSettings
from services.gateway.process_settings import GatewayProcessSettings, ModelAsset
from services.link.settings import WILDCARDS, LinkSettings
from services.runtime.settings import dump_json
from services.worker.settings import WorkerProcessSettings

PHASES: Mapping[Part, tuple[Phase, ...]] = {
    Part.PREFILL: (Phase.PREFILL,),
    Part.DECODE: (Phase.DECODE,),
    Part.BOTH: (Phase.DECODE, Phase.PREFILL),
}
"""What workers of a pool do."""

END_MARGIN_S = 15.0
"""From the end of a drain to the end of the process: an engine lets go of its memory. Seconds."""

KILL_MARGIN_S = 5.0
"""From there to Serve killing the replica; seconds."""

HEALTH_PERIOD_S = 1.0
"""Time between Serve's questions to a replica; seconds. Serve starts another one after three bad answers."""

_PARALLEL_SIZES = ("pipeline_parallel_size", "data_parallel_size")
"""Arguments of vLLM that multiply the devices of an engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """One Serve application with its one deployment.

    Attributes:
        name: of the application.
        part: what its replicas run; also the deployment's name.
        replica_count: at the start; a planner changes it.
        resources: of each replica, all on one node, by Ray's names ("CPU", "GPU", others).
        is_grouped: whether they are a placement group, since the replica has several devices.
        replicas_per_node_max: None for no bound.
        health_period_s: time between Serve's questions to a replica, seconds.
        health_timeout_s: longest wait for one answer, seconds.
        end_timeout_s: longest time from the wish that a replica goes to the end of its process, seconds.
    """

    name: str
    part: Part
    replica_count: int
    resources: Mapping[str, float]
    is_grouped: bool = False
    replicas_per_node_max: int | None = None
    health_period_s: float = HEALTH_PERIOD_S
    health_timeout_s: float
    end_timeout_s: float

    @property
    def shutdown_timeout_s(self) -> float:
        """From the wish that it goes to Serve killing it, seconds: it ends its process itself before."""
        return self.end_timeout_s + KILL_MARGIN_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one replica is.

    Attributes:
        replica_id: its id at Serve, unique in the application.
        host: address of its node, by which other nodes reach it.
        rank: which of its part's replicas on this node it is, from 0.
        cores: CPU cores of the node that engines are bound to; empty binds none.
        folder: where its files go, on its node.
        parent_pid: process with which its own ends.
    """

    replica_id: str
    host: str
    rank: int
    cores: Sequence[int]
    folder: str
    parent_pid: int


def application_name(settings: ClusterSettings, part: Part) -> str:
    """Name the application of one part."""
    return f"{settings.name}-{part.value}"


def applications(settings: ClusterSettings) -> tuple[Application, ...]:
    """List the applications of a cluster, workers first; a pool without workers is none.

    Raises:
        ConfigurationInvalid: names what cannot be on Ray.
    """
    _check(settings)
    pools = settings.pools
    counts = {Part.PREFILL: pools.prefill, Part.DECODE: pools.decode, Part.BOTH: pools.both}
    return (
        *(_pool(settings, part, count) for part, count in counts.items() if count),
        Application(
            name=application_name(settings, Part.GATEWAY),
            part=Part.GATEWAY,
            replica_count=settings.gateways,
            resources={"CPU": settings.ray.gateway_cpus, **settings.ray.resources.get(Part.GATEWAY, {})},
            replicas_per_node_max=1 if settings.edge.http_port else None,
            health_timeout_s=_health_timeout_s(settings),
            end_timeout_s=settings.conductor.drain_timeout_s + END_MARGIN_S,
        ),
    )


def device_count(settings: ClusterSettings) -> int:
    """Count the devices of one worker's engine."""
    engine = settings.vllm
    if settings.engine is not EngineKind.VLLM or engine is None:
        return 1
    count = engine.tensor_parallel_size
    for name in _PARALLEL_SIZES:
        size = engine.extra_engine_args.get(name, 1)
        if not isinstance(size, int) or size < 1:
            raise ConfigurationInvalid(
                key=f"vllm.extra_engine_args.{name}",
                message=f"vllm.extra_engine_args.{name}: must be a whole number above 0",
            )
        count *= size
    return count


def worker_process(settings: ClusterSettings, part: Part, place: Place, *, model: ModelFacts) -> ProcessSpec:
    """Describe the process of one worker.

    Args:
        settings: of the cluster.
        part: its pool.
        place: where Ray put its replica.
        model: the served model, as found on that node.
    """
    name = f"{part.value}-{place.replica_id}"
    worker = worker_of(
        settings,
        worker_id=name,
        phases=PHASES[part],
        index=_first_index(settings, part) + place.rank,
        model=model,
        cores=place.cores,
    )
    engine: VllmSettings | SimulatedSettings = msgspec.structs.replace(
        worker.engine, side_channel_host=place.host
    )
    own = WorkerProcessSettings(
        workers=(msgspec.structs.replace(worker, engine=engine),),
        bus=_bus(settings),
        link=_link(settings, place),
        drain_timeout_s=settings.ray.drain_timeout_s,
        ports_file=_ports_file(name, place),
        log_format=settings.log_format,
        parent_pid=place.parent_pid,
    )
    return ProcessSpec(
        name=name,
        command="worker",
        settings=dump_json(own),
        ports_file=_ports_file(name, place),
        host=place.host,
    )


def gateway_process(settings: ClusterSettings, place: Place, *, model: ModelFacts) -> ProcessSpec:
    """Describe the process of one gateway.

    Args:
        settings: of the cluster.
        place: where Ray put its replica.
        model: the served model, as found on that node.
    """
    name = f"{Part.GATEWAY.value}-{place.replica_id}"
    own = GatewayProcessSettings(
        bus=_bus(settings),
        edge=watched_edge(settings.edge),
        conductor=settings.conductor,
        router=settings.router,
        link=_link(settings, place),
        models=(ModelAsset(name=settings.model.name, folder=model.folder),),
        ports_file=_ports_file(name, place),
        log_format=settings.log_format,
        parent_pid=place.parent_pid,
    )
    return ProcessSpec(
        name=name,
        command="gateway",
        settings=dump_json(own),
        ports_file=_ports_file(name, place),
        host=gateway_host(settings, place),
    )


def gateway_host(settings: ClusterSettings, place: Place) -> str:
    """Name the host by which clients reach a gateway: its node, where it listens on every interface."""
    return place.host if settings.edge.host in WILDCARDS else settings.edge.host


def _pool(settings: ClusterSettings, part: Part, count: int) -> Application:
    devices, ray = device_count(settings), settings.ray
    needs = {"CPU": devices * ray.cpus_per_device, "GPU": devices * ray.gpus_per_device}
    return Application(
        name=application_name(settings, part),
        part=part,
        replica_count=count,
        resources={
            **{name: amount for name, amount in needs.items() if amount},
            **ray.resources.get(part, {}),
        },
        is_grouped=devices > 1,
        health_timeout_s=_health_timeout_s(settings),
        end_timeout_s=ray.drain_timeout_s + END_MARGIN_S,
    )


def _check(settings: ClusterSettings) -> None:
    if settings.standalone_router:
        raise ConfigurationInvalid(
            key="standalone_router",
            message="standalone_router: must be false on Ray: each gateway has a router of its own",
        )
    if settings.launcher is not None:
        raise ConfigurationInvalid(
            key="launcher", message="launcher: leave it out on Ray: Serve starts workers and lets them go"
        )
    if settings.vllm is not None and settings.vllm.nodes is not None:
        raise ConfigurationInvalid(
            key="vllm.nodes", message="vllm.nodes: must be null on Ray: a replica is on one machine"
        )
    if settings.gateways > 1 and 0 in (settings.edge.http_port, settings.edge.grpc_port):
        raise ConfigurationInvalid(
            key="edge.http_port",
            message="edge.http_port, edge.grpc_port: must not be 0 with several gateways on Ray: "
            "one runs per node, and clients find it by the port",
        )
    lease_s = _lease_s(settings)
    if settings.ray.drain_timeout_s <= lease_s:
        raise ConfigurationInvalid(
            key="ray.drain_timeout_s",
            message=f"ray.drain_timeout_s: must be above the KV lease of {lease_s:g} s, or a worker goes "
            "before its KV was fetched",
        )


def _lease_s(settings: ClusterSettings) -> float:
    if settings.engine is EngineKind.SIMULATED:
        return settings.simulated.lease_s
    return (settings.vllm or VllmSettings(model="any")).lease_s


def _health_timeout_s(settings: ClusterSettings) -> float:
    """Outlast what a replica forgives its process, so that it is the replica who judges."""
    forgiven_s = settings.supervision.liveness_timeout_s or settings.start_timeout_s
    return forgiven_s + END_MARGIN_S


def _first_index(settings: ClusterSettings, part: Part) -> int:
    """Place of a part's first worker among all workers: engines of one node get cores of their own."""
    pools = settings.pools
    before = {Part.PREFILL: 0, Part.DECODE: pools.prefill, Part.BOTH: pools.prefill + pools.decode}
    return before[part]


def _bus(settings: ClusterSettings) -> BusSettings:
    if settings.nats.url is None:
        raise ConfigurationInvalid(
            key="nats.url", message="nats.url: name a NATS server that every node of the Ray cluster reaches"
        )
    return settings.nats.connection(settings.nats.url, namespace=settings.name, limits=settings.bus)


def _link(settings: ClusterSettings, place: Place) -> LinkSettings:
    return LinkSettings(host=place.host, tls=settings.ray.tls)


def _ports_file(name: str, place: Place) -> str:
    return f"{place.folder}/{name}.ports"
