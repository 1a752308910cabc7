"""A connection to Ray: to a cluster that is there, or to one started here that ends with us.

Comes in: the `ray` section of the settings. Goes out: what is known of the cluster. Invariant: a cluster
started here listens on loopback as far as Ray lets it, asks for Ray's token, reports to nobody, and ends with
`close` or with this process. Every call blocks, so they belong in a thread. Not here: Serve's applications.
"""

import logging
import math
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from services.bus.settings import LOOPBACK
from services.cluster.ray.settings import RaySettings
from services.domain.errors import ConfigurationInvalid

OBJECT_STORE_BYTES = 100 * 1024 * 1024
"""Ray's store of objects: Baton puts nothing into it, Ray takes no less than 75 MiB."""

ADDRESS_VARIABLE = "RAY_ADDRESS"

CONNECT_TIMEOUT_S = 5.0
"""Longest wait for a first sign of life of a cluster that is named by host and port; seconds. Ray itself
would try for minutes, and cannot be interrupted."""

LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Its name notwithstanding: whether Ray is to be reachable from other machines (ray_constants.py, 2.60).
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
"""For a cluster of our own; read when Ray is imported, and inherited by its processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One connection.

    Attributes:
        is_ours: whether the cluster was started here.
        is_one_machine: whether it has one node, this one.
        dashboard_url: where Serve's REST API is; empty when it has none.
        logs_folder: where each node has the logs of its replicas' processes.
    """

    is_ours: bool
    is_one_machine: bool
    dashboard_url: str
    logs_folder: str


def address_of(settings: RaySettings) -> str | None:
    """Say which cluster is meant; None for one of our own."""
    return settings.address or os.environ.get(ADDRESS_VARIABLE) or None


def logs_folder() -> Path:
    """Name the folder for processes of this node: among Ray's own logs, where its dashboard finds them."""
    import ray

    runtime = ray.get_runtime_context()
    return Path(runtime.get_temp_dir(), runtime.get_session_name(), "logs", "baton")


def open_session(settings: RaySettings, *, cpus: float) -> Session:
    """Connect to the cluster, or start one; blocks for seconds.

    Args:
        settings: which cluster.
        cpus: that its first replicas need.

    Raises:
        ConfigurationInvalid: there is no such cluster, or Ray could not be started.
    """
    address = address_of(settings)
    if address is not None:
        _check_listens(address)
    else:
        os.environ.update(LOCAL_ENVIRONMENT)
    import ray
    from ray.exceptions import RayError

    try:
        if address is not None:
            context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            context = ray.init(
                address="local",
                num_cpus=settings.local_cpus or max(math.ceil(cpus), os.cpu_count() or 1),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=True,
                dashboard_host=LOOPBACK,
                dashboard_port=settings.local_dashboard_port,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=settings.local_folder,
            )
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise ConfigurationInvalid(
            key="ray.address", message=f"ray.address: no Ray cluster at {address or 'this machine'}: {error}"
        ) from None
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray's
    is_client = (address or "").startswith("ray://")
    return Session(
        is_ours=address is None,
        is_one_machine=len(nodes) == 1 and not is_client,
        dashboard_url=f"http://{context.dashboard_url}" if context.dashboard_url else "",
        logs_folder=str(logs_folder()),
    )


def _check_listens(address: str) -> None:
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        return  # Ray looks for it itself
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ConfigurationInvalid(
            key="ray.address", message=f"ray.address: no Ray cluster at {address}: {error}"
        ) from None


def close_session() -> None:
    """Leave the cluster; one of our own ends. Idempotent."""
    import ray

    ray.shutdown()
