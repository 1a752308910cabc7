"""Faults, as they are done to a simulated cluster.

Comes in: faults of a scenario. Goes out: their effects, and the end of each after its time or when the
faults are over. Invariant: after `stop_all` no fault is in effect and every process runs.
Not here: which faults happen (`services.simulation.draw`).
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import assert_never

from services.bus.memory import Delivery, deliver_plainly
from services.cluster.inprocess import InProcessCluster
from services.domain.blocks import KvEventBatch
from services.domain.ids import GatewayId, WorkerId
from services.domain.worker import Phase
from services.runtime.clock import SkewedClock
from services.runtime.tasks import Nursery
from services.simulation.processes import Processes
from services.simulation.scenario import (
    EVERYONE,
    BreakLink,
    CorruptPulls,
    CrashEngine,
    CutBus,
    CutLink,
    DrainWorker,
    DropCache,
    Fault,
    HangEngine,
    KillGateway,
    KillWorker,
    LoseBusState,
    LoseReplies,
    MangleKvEvents,
    PauseWorker,
    SkewClock,
    SlowNetwork,
    SlowWorker,
    Strike,
    TurnWorker,
)


@dataclass(slots=True, kw_only=True, eq=False)
class _Pending:
    strike: Strike
    missing: int
    """Messages of its kind that must still pass."""


class Faults:
    """Does faults to a cluster."""

    def __init__(
        self,
        cluster: InProcessCluster,
        processes: Processes,
        clocks: Callable[[str], SkewedClock],
        chance: Random,
        *,
        spared: Sequence[str],
    ) -> None:
        """Prepare; nothing happens yet.

        Args:
            cluster: to be harmed.
            processes: kills and restarts.
            clocks: the clock of a process.
            chance: for what is drawn message by message.
            spared: workers that no fault may touch.
        """
        self._spared = frozenset(spared)
        self._cluster = cluster
        self._processes = processes
        self._clocks = clocks
        self._chance = chance
        self._nursery = Nursery("simulated faults")
        self._delays_s: list[float] = []
        self._strikes: list[_Pending] = []

    def link_delay_s(self, base_s: float) -> float:
        """Draw the delay of one message; the largest of the present faults counts."""
        most_s = max(self._delays_s, default=0.0)
        return base_s + (self._chance.uniform(0.0, most_s) if most_s else 0.0)

    async def play(self, faults: Sequence[Fault]) -> None:
        """Let each fault begin at its time from now."""
        began_s = asyncio.get_running_loop().time()
        for fault in faults:
            await asyncio.sleep(max(0.0, began_s + fault.at_s - asyncio.get_running_loop().time()))
            self._processes.note("fault", str(fault))
            self._nursery.start(self._do(fault), type(fault).__name__)

    def saw(self, kind: str, gateway_id: GatewayId, worker_id: WorkerId) -> None:
        """A message passed: strikes that waited for it happen."""
        for pending in [p for p in self._strikes if p.strike.message == kind]:
            pending.missing -= 1
            if pending.missing == 0 and worker_id not in self._spared:
                self._strikes.remove(pending)
                self._nursery.start(self._strike(pending.strike, gateway_id, worker_id), "strike")
            elif pending.missing == 0:
                pending.missing = 1  # a worker that no fault touches; the next one then

    async def _strike(self, strike: Strike, gateway_id: GatewayId, worker_id: WorkerId) -> None:
        await asyncio.sleep(strike.delay_s)
        self._processes.note("fault", f"{strike.blow} of {worker_id} at this moment")
        match strike.blow:
            case "kill":
                await self._processes.kill_worker(worker_id, strike.for_s)
            case "crash":
                await self._do(CrashEngine(at_s=0.0, worker=worker_id))
            case "hang":
                await self._do(HangEngine(at_s=0.0, worker=worker_id, for_s=strike.for_s))
            case "pause":
                await self._do(PauseWorker(at_s=0.0, worker=worker_id, for_s=strike.for_s))
            case "cut link":
                with self._parted(gateway_id, worker_id):
                    await self._processes.pause(strike.for_s)
            case "break link":
                self._cluster.network.break_link(gateway_id, worker_id)
            case _:
                assert_never(strike.blow)

    async def ended(self, timeout_s: float) -> str | None:
        """Wait for all faults to end; says what does not in time."""
        self._strikes.clear()
        try:
            async with asyncio.timeout(timeout_s):
                while len(self._nursery):  # noqa: ASYNC110  # on a virtual clock a look costs nothing
                    await asyncio.sleep(0.05)
        except TimeoutError:
            return f"{len(self._nursery)} faults did not end within {timeout_s:g} s"
        finally:
            await self._nursery.close()
        return None

    async def _do(self, fault: Fault) -> None:  # noqa: C901  # one case for each kind
        processes = self._processes
        match fault:
            case KillWorker(worker=name, back_after_s=back_s):
                await processes.kill_worker(name, back_s)
            case DrainWorker(worker=name, patience_s=patience_s, back_after_s=back_s):
                await processes.drain_worker(name, patience_s, back_s)
            case TurnWorker(worker=name, phases=phases, for_s=for_s):
                await processes.turn_worker(name, tuple(map(Phase, phases)), for_s)
            case KillGateway(gateway=index, back_after_s=back_s):
                await processes.kill_gateway(index, back_s)
            case Strike(nth=nth):
                self._strikes.append(_Pending(strike=fault, missing=nth))
            case CrashEngine(worker=name):
                if name in self._cluster.engines:
                    self._cluster.engines[name].crash()
            case CorruptPulls(worker=name, count=count):
                if name in self._cluster.engines:
                    self._cluster.engines[name].corrupt_next_pulls(count)
            case DropCache(worker=name):
                if name in self._cluster.engines:
                    self._cluster.engines[name].drop_cache()
            case HangEngine(worker=name, for_s=for_s):
                with self._hung(name):
                    await processes.pause(for_s)
            case PauseWorker(worker=name, for_s=for_s):
                with self._hung(name), self._off_the_bus((name,)), self._unlinked(name):
                    await processes.pause(for_s)
            case SlowWorker(worker=name, factor=factor, for_s=for_s):
                with self._slowed(name, factor):
                    await processes.pause(for_s)
            case CutBus(process=process, for_s=for_s):
                everyone = (*self._cluster.workers, *(f"gateway-{i}" for i in self._cluster.gateways))
                with self._off_the_bus(everyone if process == EVERYONE else (process,)):
                    await processes.pause(for_s)
            case LoseBusState():
                self._cluster.broker.lose_state()
            case LoseReplies(process=process, count=count):
                if self._runs(process):
                    self._cluster.broker.lose_replies(process, count)
            case CutLink(gateway=index, worker=name, for_s=for_s):
                if index in self._cluster.gateways:
                    with self._parted(self._cluster.gateways[index].gateway_id, WorkerId(name)):
                        await processes.pause(for_s)
            case BreakLink(gateway=index, worker=name):
                if index in self._cluster.gateways:
                    gateway_id = self._cluster.gateways[index].gateway_id
                    self._cluster.network.break_link(gateway_id, WorkerId(name))
            case SlowNetwork(delay_s=delay_s, for_s=for_s):
                self._delays_s.append(delay_s)
                await processes.pause(for_s)
                self._delays_s.remove(delay_s)
            case MangleKvEvents(for_s=for_s):
                self._cluster.broker.kv_fault = self._mangler(fault)
                await processes.pause(for_s)
                self._cluster.broker.kv_fault = deliver_plainly
            case SkewClock(process=process, rate=rate, jump_s=jump_s):
                self._clocks(process).skew(rate=rate, jump_s=jump_s)
            case _:
                assert_never(fault)

    def _runs(self, process: str) -> bool:
        name, _, index = process.partition("-")
        return int(index) in self._cluster.gateways if name == "gateway" else process in self._cluster.workers

    @contextmanager
    def _hung(self, name: str) -> Iterator[None]:
        engine = self._cluster.engines.get(name)
        if engine is not None:
            engine.freeze()
        yield
        if engine is not None:
            engine.thaw()

    @contextmanager
    def _slowed(self, name: str, factor: float) -> Iterator[None]:
        engine = self._cluster.engines.get(name)
        if engine is not None:
            engine.slow_down(factor)
        yield
        if engine is not None:
            engine.slow_down(1.0)

    @contextmanager
    def _off_the_bus(self, processes: Sequence[str]) -> Iterator[None]:
        cut = [process for process in processes if self._runs(process)]
        for process in cut:
            self._cluster.broker.partition(process, cut=True)
        yield
        for process in cut:
            if self._runs(process):
                self._cluster.broker.partition(process, cut=False)

    @contextmanager
    def _unlinked(self, name: str) -> Iterator[None]:
        parted = [gateway.gateway_id for gateway in self._cluster.gateways.values()]
        for gateway_id in parted:
            self._cluster.network.partition(gateway_id, WorkerId(name))
        yield
        for gateway_id in parted:
            self._cluster.network.heal(gateway_id, WorkerId(name))

    @contextmanager
    def _parted(self, gateway_id: GatewayId, worker_id: WorkerId) -> Iterator[None]:
        self._cluster.network.partition(gateway_id, worker_id)
        yield
        self._cluster.network.heal(gateway_id, worker_id)

    def _mangler(self, fault: MangleKvEvents) -> Callable[[str, KvEventBatch], Delivery]:
        def mangle(client: str, batch: KvEventBatch) -> Delivery:
            del client, batch
            if self._chance.random() < fault.lost_frac:
                return Delivery(copies=0)
            copies = 2 if self._chance.random() < fault.repeated_frac else 1
            return Delivery(copies=copies, delay_s=self._chance.uniform(0.0, fault.delay_s), in_order=False)

        return mangle
