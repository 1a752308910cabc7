"""One more node of a Ray cluster of this machine, as a process that is lost when it is killed.

    python -m tests.live.ray_node ADDRESS CPUS

Comes in: the address of the cluster's head, on loopback, and how many CPUs the node claims to have. Stays
until a signal. `ray start` does the same for a cluster that other machines reach; this one listens on
loopback only. As Ray's own tests do it (`ray.cluster_utils.Cluster.add_node`, Ray 2.60).
"""

import os
import signal
import sys

from services.cluster.ray.session import LOCAL_ENVIRONMENT, OBJECT_STORE_BYTES


def join(address: str, cpus: int) -> None:
    """Join a cluster."""
    os.environ |= LOCAL_ENVIRONMENT  # Ray reads it when it is imported
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    asked = RayParams(
        gcs_address=address,
        num_cpus=cpus,
        object_store_memory=OBJECT_STORE_BYTES,
        node_manager_port=0,
        min_worker_port=0,
        max_worker_port=0,
    )
    asked.include_log_monitor = False  # type: ignore[assignment]  # a bool, whatever Ray's hint says
    asked.dashboard_agent_listen_port = None  # the head's agent has the usual one
    Node(asked, head=False, shutdown_at_exit=False, spawn_reaper=False)


if __name__ == "__main__":
    join(sys.argv[1], int(sys.argv[2]))
    signal.pause()
