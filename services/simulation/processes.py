"""The processes of a simulated cluster: who runs, who died, who is started again.

Comes in: orders to kill, drain and restart. Goes out: a cluster whose missing workers and gateways come
back, as a supervisor (Kubernetes, `baton up`) brings back processes that ended.
Invariant: one change of a process at a time; after `settle` every process runs.
Not here: when something dies (`services.simulation.faults`).
"""

import asyncio

from services.cluster.inprocess import InProcessCluster
from services.domain.worker import Phase
from services.runtime.tasks import Nursery
from services.simulation.clients import Clients
from services.simulation.transcript import Trace

RESTART_S = 1.0
"""From a process that ended by itself to its successor."""
ORDER_AGAIN_S = 0.5
"""Between two orders of a role that a worker does not have yet."""


class Processes:
    """Supervises workers and gateways."""

    def __init__(
        self, cluster: InProcessCluster, clients: Clients, trace: Trace, calm: asyncio.Event
    ) -> None:
        """Take charge of a cluster that has not started.

        Args:
            cluster: whose processes.
            clients: told when a gateway dies.
            trace: where changes are noted.
            calm: when set, nobody waits any more before a process is started again.
        """
        self._cluster = cluster
        self._clients = clients
        self._trace = trace
        self._calm = calm
        self._nursery = Nursery("simulated supervisor")
        self._turns = {name: asyncio.Lock() for name in cluster.workers}
        self._gateway_turns = {index: asyncio.Lock() for index in cluster.gateways}

    async def start(self) -> None:
        """Start everything."""
        await self._cluster.start()
        for name in self._cluster.workers:
            self._tend(name)

    async def stop(self) -> None:
        """Stop supervising; what runs goes on."""
        await self._nursery.close()

    async def pause(self, for_s: float) -> None:
        """Wait for a duration, or until the faults are over."""
        try:
            async with asyncio.timeout(for_s):
                await self._calm.wait()
        except TimeoutError:
            pass

    def _tend(self, name: str) -> None:
        self._nursery.start(self._replace_when_failed(name), f"tend {name}")

    async def _replace_when_failed(self, name: str) -> None:
        worker = self._cluster.workers[name]
        await worker.failed.wait()
        async with self._turns[name]:
            if self._cluster.workers.get(name) is not worker:
                return
            self.note(name, "found its engine dead and ends")
            await self._cluster.kill_worker(name)
            await self.pause(RESTART_S)
            await self._start(name)

    async def kill_worker(self, name: str, back_after_s: float) -> None:
        """Kill a worker and start it again later; nothing when it is down."""
        async with self._turns[name]:
            if name not in self._cluster.workers:
                return
            self.note(name, "dies")
            await self._cluster.kill_worker(name)
            await self.pause(back_after_s)
            await self._start(name)

    async def drain_worker(self, name: str, patience_s: float, back_after_s: float) -> None:
        """Drain a worker and start it again later; nothing when it is down."""
        async with self._turns[name]:
            if name not in self._cluster.workers:
                return
            self.note(name, f"drains for at most {patience_s:g} s")
            done = await self._cluster.drain_worker(name, patience_s)
            self.note(name, "is drained" if done else "ends with work left")
            await self.pause(back_after_s)
            await self._start(name)

    async def turn_worker(self, name: str, phases: tuple[Phase, ...], for_s: float) -> None:
        """Order a worker to another role, and to its first one later; nothing while it is down."""
        if name not in self._cluster.workers:
            return
        first = self._cluster.first_role(name)
        self.note(name, f"is turned to {'+'.join(phases)}")
        turning = asyncio.ensure_future(self._order_until_seen(name, phases))
        await self.pause(for_s)
        turning.cancel()
        await asyncio.gather(turning, return_exceptions=True)
        self.note(name, f"is turned back to {'+'.join(first)}")
        await self._order_until_seen(name, first)

    async def _order_until_seen(self, name: str, phases: tuple[Phase, ...]) -> None:
        """Order again and again, as a launcher does: an order may be lost, and so may its effect."""
        while True:
            worker = self._cluster.workers.get(name)
            if worker is not None and worker.status().phases == tuple(sorted(phases)):
                return
            if worker is not None:
                await self._cluster.order_role(worker.worker_id, phases)
            await asyncio.sleep(ORDER_AGAIN_S)

    async def _start(self, name: str) -> None:
        await self._cluster.start_worker(name)
        self.note(name, f"is back as epoch {self._cluster.workers[name].epoch}")
        self._tend(name)

    async def kill_gateway(self, index: int, back_after_s: float) -> None:
        """Kill a gateway and start it again later; nothing when it is down."""
        async with self._gateway_turns[index]:
            gateway = self._cluster.gateways.get(index)
            if gateway is None:
                return
            self.note(f"gateway-{index}", "dies")
            self._cluster.cut_gateway(index)
            await self._clients.cut_off(index)
            await self._cluster.kill_gateway(index)
            await self.pause(back_after_s)
            await self._cluster.start_gateway(index)
            self.note(f"gateway-{index}", "is back")

    def note(self, who: str, what: str) -> None:
        """Put a line into the trace."""
        self._trace.note(asyncio.get_running_loop().time(), who, what)
