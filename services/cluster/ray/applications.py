"""Builders of Serve applications: what a Serve config file names as `import_path`.

Comes in: a cluster's settings as plain values, the `args` of an application. Goes out: an application with
one deployment. Invariant: a wrong value refuses the application and names its key. Not here: what its
replicas do.
"""

from collections.abc import Mapping

from ray import serve

from services.cluster.ray.plan import Application, applications
from services.cluster.ray.replica import Replica
from services.cluster.ray.settings import Part
from services.cluster.settings import ClusterSettings
from services.domain.errors import ConfigurationInvalid
from services.runtime.settings import dump_json, parse


def gateway(args: dict) -> serve.Application:  # type: ignore[type-arg]  # Serve reads the annotation
    """Build the application of the gateways."""
    return _built(args, Part.GATEWAY)


def prefill(args: dict) -> serve.Application:  # type: ignore[type-arg]  # Serve reads the annotation
    """Build the application of the prefill pool."""
    return _built(args, Part.PREFILL)


def decode(args: dict) -> serve.Application:  # type: ignore[type-arg]  # Serve reads the annotation
    """Build the application of the decode pool."""
    return _built(args, Part.DECODE)


def both(args: dict) -> serve.Application:  # type: ignore[type-arg]  # Serve reads the annotation
    """Build the application of the pool of soft-roled workers."""
    return _built(args, Part.BOTH)


def build(settings: ClusterSettings, application: Application) -> serve.Application:
    """Build one application.

    A worker with several devices gets them as a placement group of one bundle: they must be on one node,
    since the engine is one tree of processes, and Ray shows a replica the GPUs of its first bundle only.

    Args:
        settings: of the cluster.
        application: as planned from them.
    """
    needs = dict(application.resources)
    cpus, gpus = needs.pop("CPU", 0.0), needs.pop("GPU", 0.0)
    deployed = serve.deployment(
        name=application.part.value,
        num_replicas=application.replica_count,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus, "resources": needs},
        health_check_period_s=application.health_period_s,
        health_check_timeout_s=application.health_timeout_s,
        graceful_shutdown_wait_loop_s=0.0,  # no request passes Serve, so there is none to wait for
        graceful_shutdown_timeout_s=application.shutdown_timeout_s,
    )(Replica)
    if application.is_grouped:
        deployed = deployed.options(
            placement_group_bundles=[dict(application.resources)], placement_group_strategy="STRICT_PACK"
        )
    if application.replicas_per_node_max is not None:
        deployed = deployed.options(max_replicas_per_node=application.replicas_per_node_max)
    return deployed.bind(
        application.part.value, dump_json(settings), shutdown_timeout_s=application.end_timeout_s
    )


def _built(args: Mapping[str, object], part: Part) -> serve.Application:
    settings = parse(ClusterSettings, args, source="args")
    found = next((planned for planned in applications(settings) if planned.part is part), None)
    if found is None:
        raise ConfigurationInvalid(
            key=f"pools.{part.value}", message=f"args: pools.{part.value}: must be above 0 in an application"
        )
    return build(settings, found)
