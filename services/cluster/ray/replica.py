"""What runs in a Serve replica: one process of Baton, and the answers that Serve wants about it.

Comes in: a part and the cluster's settings, from the builder. Goes out: a running worker or gateway, its
health, a gateway's address. Invariant: the replica is ready when its process serves, unhealthy when that died
or hangs, and gone when that has drained. Not here: requests; they never pass Serve.
"""

import logging
import os
from pathlib import Path

import msgspec
import ray
from ray import serve

from services.cluster.local import engine_cores, model_facts
from services.cluster.plan import ProcessSpec
from services.cluster.ray.plan import Place, gateway_host, gateway_process, worker_process
from services.cluster.ray.replica_process import ReplicaProcess
from services.cluster.ray.session import logs_folder
from services.cluster.ray.settings import Part
from services.cluster.settings import ClusterSettings
from services.domain.errors import ServingError

log = logging.getLogger("ray.serve")  # so that it stands in the replica's own log


class Replica:
    """One process of Baton, kept by Serve."""

    async def __init__(self, part: str, settings: bytes, shutdown_timeout_s: float) -> None:  # type: ignore[misc]  # Serve awaits it
        """Start the process; returns when it serves.

        Args:
            part: what it runs.
            settings: of the cluster, JSON.
            shutdown_timeout_s: what Serve grants it for its end, seconds.

        Raises:
            RuntimeError: it did not come up; the message holds the end of its log.
        """
        self._part = Part(part)
        self._settings = msgspec.json.decode(settings, type=ClusterSettings)
        self._shutdown_timeout_s = shutdown_timeout_s
        self._place = _place(self._part)
        try:
            spec = self._spec()
            self._process = ReplicaProcess(spec, Path(self._place.folder), self._settings.supervision)
            log.info("%s logs to %s", spec.name, self._process.log_file)
            await self._process.start(self._settings.start_timeout_s)
        except ServingError as error:
            raise RuntimeError(str(error)) from None  # ours takes keywords, which pickle does not

    async def check_health(self) -> None:
        """Answer Serve whether the process lives.

        Raises:
            RuntimeError: it does not.
        """
        try:
            await self._process.check()
        except ServingError as error:
            raise RuntimeError(str(error)) from None

    def address(self) -> tuple[str, tuple[int, ...]]:
        """Tell a gateway's host and its ports, as the process told them."""
        return gateway_host(self._settings, self._place), self._process.ports

    async def __del__(self) -> None:
        """Drain: Serve awaits this before it ends the replica, for as long as it granted."""
        await self._process.end(self._shutdown_timeout_s)

    def _spec(self) -> ProcessSpec:
        model = model_facts(self._settings)
        if self._part is Part.GATEWAY:
            return gateway_process(self._settings, self._place, model=model)
        return worker_process(self._settings, self._part, self._place, model=model)


def _place(part: Part) -> Place:
    """Ask Ray where this replica is."""
    replica, folder = serve.get_replica_context(), logs_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return Place(
        replica_id=replica.replica_id.unique_id,
        host=ray.util.get_node_ip_address(),  # type: ignore[no-untyped-call]  # Ray's
        rank=replica.rank.local_rank,
        cores=() if part is Part.GATEWAY else engine_cores(),
        folder=str(folder),
        parent_pid=os.getpid(),
    )
