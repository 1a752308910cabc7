"""The planner that `baton up --plan` starts: what a settings file does not say follows from the cluster.

Comes in: a cluster's settings, a planner's settings file or none. Goes out: the settings of its process.
Invariant: what the file says counts; observe and target are always this cluster. Not here: the planner.
"""

from pathlib import Path

import msgspec

from planner.observers.settings import GatewaysSettings
from planner.process_settings import PlannerProcessSettings
from planner.settings import KindSettings, LimitSettings, PlannerSettings, TargetSettings
from planner.targets.local_settings import LocalSettings
from services.cluster.local import LocalCluster, engine_cores, model_facts
from services.cluster.plan import ProcessSpec
from services.cluster.settings import ClusterSettings, EngineKind
from services.domain.errors import ConfigurationInvalid
from services.engine.vllm.settings import VllmSettings
from services.runtime.settings import dump_json, parse, read_yaml

LOOK_S = 2.0
"""Time between two looks: engines of one machine start in seconds."""
SIMULATED_START_S = 3.0
VLLM_START_S = 30.0
"""From the order of a worker until it takes work; a vLLM engine of the shipped model on two cores."""
DECISIONS_FILE = "decisions.jsonl"
PLANNER = "planner"


def read_plan(file: Path | None, cluster: ClusterSettings) -> PlannerProcessSettings:
    """Read a planner's settings, and say the rest as it suits a cluster.

    Args:
        file: YAML; None says nothing.
        cluster: that is to be planned.

    Raises:
        ConfigurationInvalid: a key is unknown, a value cannot be, or it names another cluster.
    """
    values = {} if file is None else read_yaml(file)
    for key in ("observe", "target"):
        if key in values:
            raise ConfigurationInvalid(
                key=key, message=f"{key}: `baton up --plan` plans its own cluster; leave {key} out"
            )
    settings = parse(PlannerProcessSettings, values, source=str(file or "flags"))
    own = values.get("planner")
    given = own if isinstance(own, dict) else {}
    return msgspec.structs.replace(settings, planner=_suited(settings.planner, given, cluster))


def _suited(planner: PlannerSettings, given: dict[str, object], cluster: ClusterSettings) -> PlannerSettings:
    """Fill in the sections that the file leaves out."""
    router = cluster.router
    suited: dict[str, object] = {
        "targets": TargetSettings(ttft_s=router.ttft_target_s, tpot_s=router.tpot_target_s),
        "kinds": (_kind(cluster),),
        "limits": LimitSettings(),
        "look_s": LOOK_S,
    }
    return msgspec.structs.replace(planner, **{key: suited[key] for key in suited if key not in given})


def _kind(cluster: ClusterSettings) -> KindSettings:
    """Describe the engines of a cluster; how many there may be is a matter of cores, or of what there is."""
    cores = engine_cores()
    if cluster.engine is EngineKind.SIMULATED:
        engine = cluster.simulated
        return KindSettings(
            performance=engine.effective_performance(),
            start_s=SIMULATED_START_S + engine.start_s,
            kv_tokens=engine.kv_blocks * engine.block_size_tokens,
            sequences_max=engine.sequences_max,
            step_tokens_max=engine.step_tokens_max,
            workers_max=max(cluster.pools.total, 2 * len(cores)),
        )
    vllm = cluster.vllm or VllmSettings(model=model_facts(cluster).folder)
    return KindSettings(
        performance=vllm.performance,
        start_s=VLLM_START_S,
        sequences_max=vllm.sequences_max,
        step_tokens_max=vllm.step_tokens_max,
        workers_max=max(cluster.pools.total, len(cores)),
    )


def planner_process(
    cluster: LocalCluster, settings: PlannerProcessSettings, *, parent_pid: int
) -> ProcessSpec:
    """Describe the process that plans a cluster that serves.

    Args:
        cluster: it; its launcher takes orders.
        settings: as `read_plan` gave them.
        parent_pid: process with which it ends.
    """
    own = cluster.settings
    bus = own.nats.connection(cluster.nats_url, namespace=own.name, limits=own.bus)
    ports_file = f"{cluster.folder}/{PLANNER}.ports"
    complete = msgspec.structs.replace(
        settings,
        observe=GatewaysSettings(
            urls=tuple(f"{address.watch_url}/metrics" for address in cluster.addresses), bus=bus
        ),
        target=LocalSettings(url=cluster.launcher_url, kind=settings.planner.kinds[0].name),
        decisions_file=settings.decisions_file or f"{cluster.folder}/{DECISIONS_FILE}",
        metrics_port=settings.metrics_port or 0,  # the supervisor asks there
        ports_file=ports_file,
        parent_pid=parent_pid,
    )
    return ProcessSpec(
        name=PLANNER,
        command="planner",
        settings=dump_json(complete),
        ports_file=ports_file,
        host=settings.metrics_host,
    )
