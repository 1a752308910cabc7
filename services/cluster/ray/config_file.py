"""A cluster as a Serve config file, for `serve deploy` and KubeRay's `serveConfigV2`: pure.

Comes in: a cluster's settings, and the values they were read from. Goes out: plain values of Serve's
`ServeDeploySchema` (Ray 2.60). Invariant: the builders that it names (`services.cluster.ray.applications`)
read the same values back to the same settings. Not here: YAML, deploying.
"""

from collections.abc import Mapping

from services.cluster.ray.plan import applications
from services.cluster.ray.settings import Part
from services.cluster.settings import ClusterSettings
from services.domain.errors import ConfigurationInvalid

BUILDERS = "services.cluster.ray.applications"


def serve_config(settings: ClusterSettings, values: Mapping[str, object]) -> dict[str, object]:
    """Write the config file of a cluster.

    Sizes of pools stand beside `args` and not only in them: what is in `args` is code to Serve, and a change
    replaces every replica.

    Args:
        settings: of the cluster.
        values: from which they were parsed; `args` of every application.

    Raises:
        ConfigurationInvalid: names what cannot be on Ray, or is missing.
    """
    if settings.nats.url is None:
        raise ConfigurationInvalid(
            key="nats.url", message="nats.url: name a NATS server that every node of the Ray cluster reaches"
        )
    shared = dict(values)
    return {
        "proxy_location": "Disabled",  # clients talk to gateways themselves
        "applications": [
            {
                "name": application.name,
                "route_prefix": None,
                "import_path": f"{BUILDERS}:{application.part.value}",
                "external_scaler_enabled": application.part is not Part.GATEWAY,  # false holds a pool
                "args": shared,
                "deployments": [{"name": application.part.value, "num_replicas": application.replica_count}],
            }
            for application in applications(settings)
        ],
    }
