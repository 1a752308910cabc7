"""A whole cluster in one event loop: the real shells on memory bus, memory links and simulated engines.

Comes in: workers wanted. Goes out: running gateways and workers. On a `VirtualTimeLoop` it takes no real
time, and the same inputs give the same run. Invariant: only what carries messages and computes is
exchanged; everything that decides or recovers is the code that also runs in production.
Not here: processes (`services.cluster.local`), faults (the broker, the network and the engines have hooks).
"""

from collections.abc import Mapping, Sequence

from services.bus.memory import MemoryBroker, MemoryBus
from services.domain.ids import GatewayId, WorkerId
from services.domain.worker import Phase
from services.engine.simulated.engine import SimulatedEngine
from services.engine.simulated.fabric import Fabric
from services.engine.simulated.settings import SimulatedSettings
from services.gateway.conductor import Conductor
from services.gateway.settings import ConductorSettings
from services.link.memory import MemoryDialer, MemoryLinkServer, MemoryNetwork
from services.router.router import Router
from services.router.settings import RouterSettings
from services.runtime.clock import LoopClock
from services.runtime.metrics import Meters
from services.worker.settings import WorkerSettings
from services.worker.worker import Worker

MODEL = "baton-tiny"


class InProcessCluster:
    """Gateways and workers that share a broker, a network and a fabric."""

    def __init__(
        self,
        phases: Mapping[str, Sequence[Phase]],
        *,
        engine: SimulatedSettings | None = None,
        router: RouterSettings | None = None,
        conductor: ConductorSettings | None = None,
        gateway_count: int = 1,
    ) -> None:
        """Put a cluster together; nothing runs yet.

        Args:
            phases: phases of each worker, by its name.
            engine: settings of all engines.
            router: settings of all routers.
            conductor: settings of all gateways.
            gateway_count: gateways, each with a router of its own.
        """
        self.broker = MemoryBroker()
        self.network = MemoryNetwork()
        self.fabric = Fabric("inprocess")
        self.meters = Meters()
        self.engines: dict[str, SimulatedEngine] = {}
        self.workers = {name: self._worker(name, own, engine) for name, own in phases.items()}
        self.gateways = tuple(
            Conductor(
                conductor or ConductorSettings(),
                Router(router or RouterSettings()),
                MemoryBus(self.broker, f"gateway-{index}"),
                MemoryDialer(self.network),
                gateway_id=GatewayId(f"gateway-{index}"),
                clock=LoopClock(),
                meters=self.meters,
            )
            for index in range(gateway_count)
        )

    def _worker(self, name: str, phases: Sequence[Phase], engine: SimulatedSettings | None) -> Worker:
        settings = WorkerSettings(
            worker_id=name,
            model=MODEL,
            phases=tuple(phases),
            engine=engine or SimulatedSettings(),
            warm_up_tokens=0,
        )
        self.engines[name] = SimulatedEngine(
            engine or SimulatedSettings(), worker_id=WorkerId(name), fabric=self.fabric
        )
        return Worker(
            settings,
            self.engines[name],
            MemoryBus(self.broker, name),
            MemoryLinkServer(self.network, name),
            clock=LoopClock(),
            meters=self.meters,
        )

    async def start(self) -> None:
        """Start all workers, then all gateways, and wait until each gateway reaches every worker."""
        for worker in self.workers.values():
            await worker.start()
        for gateway in self.gateways:
            await gateway.start()
        for gateway in self.gateways:
            await gateway.wait_linked(frozenset(WorkerId(name) for name in self.workers))

    async def stop(self) -> None:
        """Stop all gateways, then all workers."""
        for gateway in self.gateways:
            await gateway.stop()
        for worker in self.workers.values():
            await worker.stop()

    def leftovers(self) -> dict[str, int]:
        """What is held anywhere, by name; all zero when nothing is going on."""
        held: dict[str, int] = {}
        for name, engine in self.engines.items():
            load = engine.load()
            held[f"{name} used blocks"] = load.kv_used_blocks
            held[f"{name} leased blocks"] = load.leased_blocks
            held[f"{name} sequences"] = load.running_count + load.waiting_count
        for index, gateway in enumerate(self.gateways):
            state = gateway.cluster()
            held[f"gateway-{index} requests"] = state.active_count
            held[f"gateway-{index} tasks"] = state.queue_waiting_count
        return held
