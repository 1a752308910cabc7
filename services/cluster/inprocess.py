"""A whole cluster in one event loop: the real shells on memory bus, memory links and simulated engines.

Comes in: workers wanted. Goes out: running gateways and workers, each of which can die and come back as
a process does. On a `VirtualTimeLoop` it takes no real time, and the same inputs give the same run.
Invariant: only what carries messages and computes is exchanged; everything that decides or recovers is
the code that also runs in production.
Not here: processes (`services.cluster.local`), which faults happen when (`services.simulation`).
"""

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from services.bus.memory import MemoryBroker, MemoryBus
from services.domain.ids import GatewayId, WorkerId
from services.domain.worker import Phase, RoleOrder
from services.engine.simulated.engine import SimulatedEngine
from services.engine.simulated.fabric import Fabric
from services.engine.simulated.settings import SimulatedSettings
from services.gateway.conductor import Conductor
from services.gateway.settings import ConductorSettings
from services.link.memory import MemoryDialer, MemoryLinkServer, MemoryNetwork
from services.router.router import Router
from services.router.settings import RouterSettings
from services.runtime.clock import Clock, LoopClock
from services.runtime.metrics import Meters
from services.worker.settings import WorkerSettings
from services.worker.worker import Worker

MODEL = "baton-tiny"


def _loop_clock(_process: str) -> Clock:
    return LoopClock()


class InProcessCluster:
    """Gateways and workers that share a broker, a network and a fabric.

    Attributes:
        broker: the NATS server's stand-in; its clients have the names of workers and gateways.
        network: joins gateways and workers.
        fabric: over which engines read each other's blocks.
        meters: of all processes together.
        workers: the running workers, by name; one that died is missing.
        engines: their engines, by the same names.
        gateways: the running gateways, by index; one that died is missing.
    """

    def __init__(
        self,
        phases: Mapping[str, Sequence[Phase]],
        *,
        engine: SimulatedSettings | None = None,
        worker: WorkerSettings | None = None,
        router: RouterSettings | None = None,
        conductor: ConductorSettings | None = None,
        gateway_count: int = 1,
        broker: MemoryBroker | None = None,
        network: MemoryNetwork | None = None,
        clock: Callable[[str], Clock] = _loop_clock,
    ) -> None:
        """Put a cluster together; nothing runs yet.

        Args:
            phases: phases of each worker, by its name.
            engine: settings of all engines.
            worker: settings of all workers; name, phases and engine are filled in.
            router: settings of all routers.
            conductor: settings of all gateways.
            gateway_count: gateways, each with a router of its own.
            broker: None makes one without faults.
            network: None makes one without delay.
            clock: the clock of a process, by the name of its worker or gateway.
        """
        self.broker = broker or MemoryBroker()
        self.network = network or MemoryNetwork()
        self.fabric = Fabric("inprocess")
        self.meters = Meters()
        self._clock = clock
        self._router = router or RouterSettings()
        self._conductor = conductor or ConductorSettings()
        engine = engine or SimulatedSettings()
        template = worker or WorkerSettings(
            worker_id="template", model=MODEL, engine=engine, warm_up_tokens=0
        )
        self._worker_settings = {
            name: replace(template, worker_id=name, phases=tuple(own), engine=engine)
            for name, own in phases.items()
        }
        self._buses: dict[str, MemoryBus] = {}
        self._launcher = MemoryBus(self.broker, "launcher")
        self._gateway_lives = dict.fromkeys(range(gateway_count), 0)
        self.engines: dict[str, SimulatedEngine] = {}
        self.workers = {name: self._make_worker(name) for name in phases}
        self.gateways = {index: self._make_gateway(index) for index in self._gateway_lives}

    def _make_worker(self, name: str) -> Worker:
        settings = self._worker_settings[name]
        if not isinstance(settings.engine, SimulatedSettings):
            raise TypeError("engines of a cluster in one process are simulated")
        self.engines[name] = SimulatedEngine(settings.engine, worker_id=WorkerId(name), fabric=self.fabric)
        self._buses[name] = MemoryBus(self.broker, name)
        return Worker(
            settings,
            self.engines[name],
            self._buses[name],
            MemoryLinkServer(self.network, name),
            clock=self._clock(name),
            meters=self.meters,
        )

    def _make_gateway(self, index: int) -> Conductor:
        life = self._gateway_lives[index]
        self._gateway_lives[index] += 1
        name = f"gateway-{index}"
        self._buses[name] = MemoryBus(self.broker, name)
        return Conductor(
            self._conductor,
            Router(self._router),
            self._buses[name],
            MemoryDialer(self.network),
            gateway_id=GatewayId(name if life == 0 else f"{name}.{life}"),
            clock=self._clock(name),
            meters=self.meters,
        )

    async def start(self) -> None:
        """Start all workers, then all gateways, and wait until each gateway reaches every worker."""
        for worker in self.workers.values():
            await worker.start()
        for gateway in self.gateways.values():
            await gateway.start()
        for gateway in self.gateways.values():
            await gateway.wait_linked(frozenset(WorkerId(name) for name in self.workers))

    async def stop(self) -> None:
        """Stop all gateways, then all workers."""
        for gateway in self.gateways.values():
            await gateway.stop()
        for worker in self.workers.values():
            await worker.stop()

    # Lives of single processes

    async def kill_worker(self, name: str) -> None:
        """Let a worker die as by kill -9: links end, the bus hears nothing, leases are lost."""
        worker = self.workers.pop(name)
        self.network.crash_worker(worker.worker_id)
        await self._buses.pop(name).close()
        self.engines.pop(name).crash()
        await worker.stop()

    async def drain_worker(self, name: str, timeout_s: float) -> bool:
        """End a worker as its process ends on SIGTERM; True when all it had to do was done in time."""
        worker = self.workers[name]
        done = await worker.drain(timeout_s)
        if self.workers.get(name) is worker:
            del self.workers[name], self.engines[name]
            await worker.stop()
            await self._buses.pop(name).close()
        return done

    def first_role(self, name: str) -> tuple[Phase, ...]:
        """Phases that a worker has when it starts."""
        return self._worker_settings[name].phases

    async def order_role(self, name: str, phases: Sequence[Phase]) -> None:
        """Order a running worker to another role, over the bus, at most once."""
        await self.order(
            RoleOrder(worker_id=WorkerId(name), epoch=self.workers[name].epoch, phases=tuple(phases))
        )

    async def order(self, order: RoleOrder) -> None:
        """Give an order as it is."""
        await self._launcher.order_role(order)

    async def start_worker(self, name: str, engine: SimulatedSettings | None = None) -> None:
        """Start a worker again under its name, as a new process with an empty cache.

        Args:
            name: of the worker.
            engine: of its engine from now on, as after an upgrade; None leaves it.
        """
        if engine is not None:
            self._worker_settings[name] = replace(self._worker_settings[name], engine=engine)
        worker = self.workers[name] = self._make_worker(name)
        await worker.start()

    async def kill_gateway(self, index: int) -> None:
        """Let a gateway die as by kill -9; whoever reads from it must be stopped first."""
        gateway = self.gateways.pop(index)
        await self._buses.pop(f"gateway-{index}").close()
        await gateway.stop()

    def cut_gateway(self, index: int) -> None:
        """Let workers and bus lose a gateway, which is about to die."""
        self.network.crash_gateway(self.gateways[index].gateway_id)

    async def start_gateway(self, index: int) -> None:
        """Start a gateway in the place of one that died: a new id, an empty router."""
        gateway = self.gateways[index] = self._make_gateway(index)
        await gateway.start()

    def leftovers(self) -> dict[str, int]:
        """What is held anywhere, by name; all zero when nothing is going on."""
        held: dict[str, int] = {}
        for name, engine in self.engines.items():
            load = engine.load()
            held[f"{name} used blocks"] = load.kv_used_blocks
            held[f"{name} leased blocks"] = load.leased_blocks
            held[f"{name} sequences"] = load.running_count + load.waiting_count
        for index, gateway in self.gateways.items():
            state = gateway.cluster()
            held[f"gateway-{index} requests"] = state.active_count
            held[f"gateway-{index} tasks"] = state.queue_waiting_count
        return held
