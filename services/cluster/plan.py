"""From a cluster's settings to the processes that make it: pure, so that it can be shown and tested.

Comes in: `ClusterSettings`, the cores of this machine, the NATS address. Goes out: one `ProcessSpec`
per process, each with the settings file that it would also read on Kubernetes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from services.bus.settings import LOOPBACK, BusSettings
from services.cluster.roster import worker_name
from services.cluster.settings import ClusterSettings, EngineKind
from services.domain.worker import Phase
from services.engine.simulated.settings import SimulatedSettings
from services.engine.vllm.settings import VllmSettings
from services.gateway.edge.settings import EdgeSettings
from services.gateway.process_settings import GatewayProcessSettings, ModelAsset
from services.router.process_settings import RouterProcessSettings
from services.runtime.settings import dump_json
from services.worker.settings import WorkerProcessSettings, WorkerSettings

WARM_UP_TOKENS = 1024
"""A prompt that makes an engine do what it does only once; a simulated engine has nothing of that kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One process to start.

    Attributes:
        name: shown in progress and used for its log file.
        command: subcommand of `baton` that it runs.
        settings: content of its settings file, JSON.
        ports_file: where it tells its ports, the one that answers questions about it last.
        host: where that port is.
    """

    name: str
    command: str
    settings: bytes
    ports_file: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the plan needs to know of a model folder."""

    folder: str
    vocabulary_size: int
    eos_token_id: int


def worker_names(settings: ClusterSettings) -> tuple[tuple[str, tuple[Phase, ...]], ...]:
    """Names and phases of all workers, prefill first; what may be turned is not named by its role."""
    pools = settings.pools
    if settings.launcher is not None:
        roles = (
            *[(Phase.PREFILL,)] * pools.prefill,
            *[(Phase.DECODE,)] * pools.decode,
            *[(Phase.DECODE, Phase.PREFILL)] * pools.both,
        )
        return tuple((worker_name(index), role) for index, role in enumerate(roles))
    return (
        *((f"prefill-{i}", (Phase.PREFILL,)) for i in range(pools.prefill)),
        *((f"decode-{i}", (Phase.DECODE,)) for i in range(pools.decode)),
        *((f"worker-{i}", (Phase.DECODE, Phase.PREFILL)) for i in range(pools.both)),
    )


def plan(
    settings: ClusterSettings,
    *,
    model: ModelFacts,
    nats_url: str,
    cores: Sequence[int],
    folder: str,
    router_address: str | None,
    parent_pid: int,
) -> tuple[ProcessSpec, ...]:
    """List the processes of a cluster, workers first.

    Args:
        settings: what is wanted.
        model: the served model.
        nats_url: where NATS answers.
        cores: CPU cores that engines are bound to; empty binds none.
        folder: where processes write their ports.
        router_address: where a standalone router listens; None runs none.
        parent_pid: process with which all of them end.
    """
    bus = settings.nats.connection(nats_url, namespace=settings.name, limits=settings.bus)
    workers = workers_of(settings, model=model, cores=cores)
    is_alone = settings.engine is EngineKind.VLLM or settings.launcher is not None
    groups = [(worker,) for worker in workers] if is_alone else [workers]
    return (
        *(worker_process(settings, group, bus, folder, parent_pid) for group in groups),
        *_router(settings, bus, router_address, folder, parent_pid),
        *_gateways(settings, bus, model, router_address=router_address, folder=folder, parent_pid=parent_pid),
    )


def workers_of(
    settings: ClusterSettings, *, model: ModelFacts, cores: Sequence[int]
) -> tuple[WorkerSettings, ...]:
    """List the workers of a cluster, prefill first.

    Args:
        settings: what is wanted.
        model: the served model.
        cores: CPU cores that engines are bound to; empty binds none.
    """
    return tuple(
        worker_of(settings, worker_id=name, phases=phases, index=index, model=model, cores=cores)
        for index, (name, phases) in enumerate(worker_names(settings))
    )


def worker_of(
    settings: ClusterSettings,
    *,
    worker_id: str,
    phases: tuple[Phase, ...],
    index: int,
    model: ModelFacts,
    cores: Sequence[int],
) -> WorkerSettings:
    """Describe one worker.

    Args:
        settings: of the cluster.
        worker_id: its name.
        phases: what it does.
        index: its place among all workers, from 0: which cores are its own. Beyond the last they go round.
        model: the served model.
        cores: CPU cores that engines are bound to; empty binds none.
    """
    return WorkerSettings(
        worker_id=worker_id,
        model=settings.model.name,
        phases=phases,
        prefill=settings.prefill,
        engine=_engine(settings, index, model, cores),
        warm_up_tokens=0 if settings.engine is EngineKind.SIMULATED else WARM_UP_TOKENS,
    )


def turned(spec: ProcessSpec, phases: tuple[Phase, ...]) -> ProcessSpec:
    """Have a process of one worker start in another role from now on."""
    own = msgspec.json.decode(spec.settings, type=WorkerProcessSettings)
    workers = tuple(msgspec.structs.replace(worker, phases=phases) for worker in own.workers)
    return replace(spec, settings=dump_json(msgspec.structs.replace(own, workers=workers)))


def pinned(spec: ProcessSpec, ports: tuple[int, ...]) -> ProcessSpec:
    """Have a process take the ports again that it got: clients know those of a gateway.

    Args:
        spec: the process.
        ports: what it told; a gateway tells HTTP, gRPC and metrics.
    """
    if spec.command != "gateway":
        return spec
    own = msgspec.json.decode(spec.settings, type=GatewayProcessSettings)
    http_port, grpc_port, metrics_port = ports
    edge = msgspec.structs.replace(
        own.edge, http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port
    )
    return replace(spec, settings=dump_json(msgspec.structs.replace(own, edge=edge)))


def worker_process(
    settings: ClusterSettings, group: tuple[WorkerSettings, ...], bus: BusSettings, folder: str, parent: int
) -> ProcessSpec:
    """Describe a process of workers.

    Args:
        settings: of the cluster.
        group: one worker, or several simulated ones.
        bus: how NATS is reached.
        folder: where it writes its ports.
        parent: process with which it ends.
    """
    name = group[0].worker_id if len(group) == 1 else "workers"
    own = WorkerProcessSettings(
        workers=group,
        bus=bus,
        ports_file=f"{folder}/{name}.ports",
        log_format=settings.log_format,
        parent_pid=parent,
    )
    return ProcessSpec(
        name=name,
        command="worker",
        settings=dump_json(own),
        ports_file=f"{folder}/{name}.ports",
        host=own.link.host,
    )


def watched_edge(settings: EdgeSettings) -> EdgeSettings:
    """Give a gateway a port for those who watch over it, who have no certificate."""
    return msgspec.structs.replace(settings, metrics_port=settings.metrics_port or 0)


def _gateways(
    settings: ClusterSettings,
    bus: BusSettings,
    model: ModelFacts,
    *,
    router_address: str | None,
    folder: str,
    parent_pid: int,
) -> Iterator[ProcessSpec]:
    """Make the gateways: the first has the ports of the settings, the others have free ones."""
    first = watched_edge(settings.edge)
    free = msgspec.structs.replace(first, http_port=0, grpc_port=0, metrics_port=0)
    for index in range(settings.gateways):
        name = f"gateway-{index}" if index else "gateway"
        own = GatewayProcessSettings(
            bus=bus,
            edge=free if index else first,
            conductor=settings.conductor,
            router=settings.router,
            models=(ModelAsset(name=settings.model.name, folder=model.folder),),
            ports_file=f"{folder}/{name}.ports",
            router_address=router_address,
            log_format=settings.log_format,
            parent_pid=parent_pid,
        )
        yield ProcessSpec(
            name=name,
            command="gateway",
            settings=dump_json(own),
            ports_file=f"{folder}/{name}.ports",
            host=settings.edge.host,
        )


def _router(
    settings: ClusterSettings, bus: BusSettings, address: str | None, folder: str, parent_pid: int
) -> tuple[ProcessSpec, ...]:
    if address is None:
        return ()
    own = RouterProcessSettings(
        bus=bus,
        address=address,
        router=settings.router,
        ports_file=f"{folder}/router.ports",
        log_format=settings.log_format,
        parent_pid=parent_pid,
    )
    return (
        ProcessSpec(
            name="router",
            command="router",
            settings=dump_json(own),
            ports_file=f"{folder}/router.ports",
            host=LOOPBACK,
        ),
    )


def _engine(
    settings: ClusterSettings, index: int, model: ModelFacts, cores: Sequence[int]
) -> VllmSettings | SimulatedSettings:
    match settings.engine:
        case EngineKind.SIMULATED:
            return msgspec.structs.replace(
                settings.simulated,
                # engines of other processes are reached by their side channel alone
                side_channel_host=settings.simulated.side_channel_host
                or (None if settings.launcher is None else LOOPBACK),
                vocabulary_size=model.vocabulary_size,
                eos_token_id=model.eos_token_id,
            )
        case EngineKind.VLLM:
            own = (
                settings.cores[index % len(settings.cores)]
                if settings.cores
                else _share(cores, index, settings.pools.total)
            )
            base = settings.vllm or VllmSettings(model=model.folder)
            return msgspec.structs.replace(base, model_name=settings.model.name, cores=own)


def _share(cores: Sequence[int], index: int, engine_count: int) -> tuple[int, ...]:
    """Divide the cores evenly; with fewer cores than engines they take turns."""
    if not cores:
        return ()
    each = max(1, len(cores) // engine_count)
    start = index * each % len(cores)
    return tuple(cores[start : start + each])
