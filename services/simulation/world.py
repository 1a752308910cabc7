"""One run of a scenario: safety phase, liveness phase, and everything that is seen of it.

Comes in: a scenario. Goes out: an observation and a trace. Invariant: nothing here decides for the
cluster; all of it runs on the loop's time, and every wait has an end.
Not here: faults (`faults`), clients (`clients`), processes (`processes`), judgement (`invariants`).
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from random import Random

from services.bus.memory import MemoryBroker
from services.bus.settings import BusLimits
from services.cluster.inprocess import MODEL, InProcessCluster
from services.domain.ids import GatewayId, TicketId, WorkerId
from services.domain.link import StartDecode, ToGateway, ToWorker
from services.domain.task import Claim, TaskRecord
from services.domain.worker import Lifecycle, Phase
from services.link.memory import MemoryNetwork
from services.runtime.clock import SkewedClock
from services.runtime.tasks import Nursery
from services.simulation.clients import Clients
from services.simulation.faults import Faults
from services.simulation.observation import Observation, Sample
from services.simulation.processes import Processes
from services.simulation.scenario import Scenario
from services.simulation.transcript import Trace, client_of, describe
from services.worker.settings import WorkerSettings

SAMPLE_EVERY_S = 0.5
CALM_SAMPLE_EVERY_S = 0.05
LINGER_S_MAX = 45.0
"""How long after its client's call a job may be in an engine or a task in the queue: a hung link and a hung
engine are found within 10 s each, the task of a dead gateway 30 s after its claim ended."""
CALM_LINGER_S_MAX = 0.25
"""The same where nothing fails: an engine step and a few messages."""
FAULTS_END_S_MAX = 60.0
CONVERGE_S_MAX = 60.0
CALLS_END_S_MAX = 120.0
RELIEF_S = 5.0
"""From the last call of the safety phase to the first of the liveness phase: what was overload is over."""
QUIET_S_MAX = 60.0
SETTLE_S_MAX = 15.0
"""From the last call to the moment at which views must be true: a snapshot that failed is fetched again after
5 s at most, over a link that is opened again after 2 s at most."""


class World:
    """Everything of one run."""

    def __init__(self, scenario: Scenario, trace: Trace) -> None:
        """Put the run together; must be called from within its loop."""
        self._trace = trace
        self._scenario = scenario
        self._clocks: dict[str, SkewedClock] = {}
        self._tickets: Counter[TicketId] = Counter()
        self._samples: list[Sample] = []
        self._stuck: list[str] = []
        self._calm = asyncio.Event()
        self._nursery = Nursery("simulation")
        broker = MemoryBroker(BusLimits(claim_ttl_s=scenario.claim_ttl_s))
        broker.latency_s = scenario.bus_latency_s
        broker.witness = self._saw_task
        network = MemoryNetwork(delay_s=self._delay_s, silence_s_max=scenario.silence_s_max)
        network.witness = self._saw_message
        self._cluster = InProcessCluster(
            {name: tuple(map(Phase, phases)) for name, phases in sorted(scenario.workers.items())},
            engine=scenario.engine,
            worker=WorkerSettings(
                worker_id="template", model=MODEL, engine=scenario.engine, warm_up_tokens=0
            ),
            gateway_count=scenario.gateway_count,
            broker=broker,
            network=network,
            clock=self._clock,
        )
        self._clients = Clients(self._cluster, scenario.engine, self._trace)
        self._processes = Processes(self._cluster, self._clients, self._trace, self._calm)
        self._faults = Faults(
            self._cluster,
            self._processes,
            self._clock,
            Random(f"faults of {scenario.seed}"),  # noqa: S311  # no secret
            spared=scenario.spared,
        )

    async def run(self) -> Observation:
        """Play both phases and say what was seen."""
        with _crashes_heard() as crashes:
            await self._processes.start()
            self._nursery.start(self._sample(), "samples")
            await self._play()
            await self._converge()
            fleet = tuple(self._fleet_differences())
            await self._until(self._clients.idle, CALLS_END_S_MAX)
            await asyncio.sleep(RELIEF_S)
            for arrival in self._scenario.calm_arrivals:
                self._clients.send(arrival, calm=True)
            await asyncio.sleep(1.0)
            await self._clients.wait(CALLS_END_S_MAX)
            leftovers = await self._quiet()
            await self._until(self._settled, SETTLE_S_MAX)
            observation = Observation(
                scenario=self._scenario,
                outcomes=self._clients.outcomes(),
                samples=tuple(self._samples),
                tickets=dict(self._tickets),
                late_pulls=tuple(self._cluster.fabric.late_pulls),
                leftovers=leftovers,
                index_differences=tuple(self._index_differences()),
                fleet_differences=fleet,
                placements_kept=self._placements_kept(),
                stuck=tuple(self._stuck),
                crashes=(),
            )
            tasks_left = await self._stop()
        for crash in crashes:
            self._trace.note(0.0, "crash", crash)
        return replace(observation, crashes=tuple(crashes), tasks_left=tasks_left)

    # Phases

    async def _play(self) -> None:
        for arrival in self._scenario.arrivals:
            self._clients.send(arrival)
        playing = self._nursery.start(self._faults.play(self._scenario.faults), "faults")
        await asyncio.sleep(self._scenario.safety_s)
        playing.cancel()
        self._processes.note("world", "the faults are over")
        self._calm.set()
        late = await self._faults.ended(FAULTS_END_S_MAX)
        if late is not None:
            self._stuck.append(late)

    async def _converge(self) -> None:
        """Wait until every gateway knows and reaches every worker."""
        if not await self._until(lambda: not any(self._fleet_differences()), CONVERGE_S_MAX):
            self._stuck.append(f"the fleet is not whole {CONVERGE_S_MAX:g} s after the faults")

    async def _quiet(self) -> dict[str, int]:
        """Wait until nothing is held; says what still is."""
        await self._until(lambda: not any(self._cluster.leftovers().values()), QUIET_S_MAX)
        return self._cluster.leftovers()

    def _settled(self) -> bool:
        return not any(self._index_differences()) and not any(self._placements_kept().values())

    async def _until(self, true: Callable[[], bool], timeout_s: float) -> bool:
        """Look again and again, which costs nothing on a virtual clock; False after the timeout."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        while not true():
            if loop.time() >= until_s:
                return False
            await asyncio.sleep(SAMPLE_EVERY_S)
        return True

    async def _stop(self) -> tuple[str, ...]:
        """Stop everything; says which tasks run on."""
        await self._nursery.close()
        await self._processes.stop()
        await self._cluster.stop()
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        return tuple(sorted(f"{task.get_name()} runs on" for task in left))

    # What is seen

    def _clock(self, process: str) -> SkewedClock:
        if process not in self._clocks:
            offset_s = 1000.0 * (1 + len(self._clocks))  # readings mean nothing to another process
            self._clocks[process] = SkewedClock(offset_s=offset_s)
        return self._clocks[process]

    def _delay_s(self, _gateway_id: GatewayId, _worker_id: WorkerId) -> float:
        return self._faults.link_delay_s(self._scenario.link_delay_s)

    def _saw_message(self, gateway_id: GatewayId, worker_id: WorkerId, message: ToGateway | ToWorker) -> None:
        what, requests = describe(message)
        self._trace_now(f"{gateway_id} {worker_id}", what, requests)
        if isinstance(message, StartDecode) and message.ticket is not None:
            self._tickets[message.ticket.ticket_id] += 1
        if not self._calm.is_set():
            self._faults.saw(what.partition(" ")[0], gateway_id, worker_id)

    def _saw_task(self, change: str, record: TaskRecord, claim: Claim | None) -> None:
        holder = "nobody" if claim is None else f"{claim.worker_id} (attempt {claim.attempt})"
        self._trace_now("queue", f"{change} {record.task_id}, held by {holder}", (client_of(record.task_id),))

    def _trace_now(self, who: str, what: str, requests: tuple[str, ...]) -> None:
        self._trace.note(asyncio.get_running_loop().time(), who, what, requests)

    async def _sample(self) -> None:
        faulty = bool(self._scenario.faults)
        while True:
            await asyncio.sleep(SAMPLE_EVERY_S if faulty else CALM_SAMPLE_EVERY_S)
            now_s = asyncio.get_running_loop().time()
            self._samples.append(
                Sample(
                    at_s=now_s,
                    lingering=tuple(self._lingering(now_s, LINGER_S_MAX if faulty else CALM_LINGER_S_MAX)),
                    index_over=tuple(self._index_over()),
                )
            )

    def _lingering(self, now_s: float, most_s: float) -> Iterator[str]:
        places = [(name, engine.job_ids()) for name, engine in self._cluster.engines.items()]
        for place, names in [*places, ("the queue", self._cluster.broker.task_ids())]:
            for name in names:
                ended_s = self._clients.ended_s(client_of(name))
                if ended_s is not None and now_s - ended_s > most_s:
                    yield f"{name} in {place}, {now_s - ended_s:.2f} s after its call"

    def _index_over(self) -> Iterator[str]:
        for index, gateway in self._cluster.gateways.items():
            held, most = len(gateway.router.index), gateway.router.index.blocks_max()
            if held > most:
                yield f"gateway-{index} indexes {held} blocks of at most {most}"

    def _index_differences(self) -> Iterator[str]:
        for index, gateway in self._cluster.gateways.items():
            for name, engine in self._cluster.engines.items():
                known, held = gateway.router.index.blocks_of(WorkerId(name)), engine.cached_blocks()
                if known != held:
                    yield (
                        f"gateway-{index} misses {len(held - known)} blocks of {name} and believes in "
                        f"{len(known - held)} that are gone"
                    )

    def _fleet_differences(self) -> Iterator[str]:
        for index in self._scenario_gateways():
            gateway = self._cluster.gateways.get(index)
            if gateway is None:
                yield f"gateway-{index} is down"
                continue
            known = {view.worker_id: view.status for view in gateway.router.fleet.workers()}
            for name in sorted(self._scenario.workers):
                worker, status = self._cluster.workers.get(name), known.pop(WorkerId(name), None)
                if worker is None:
                    yield f"{name} is down"
                elif (
                    status is None or status.epoch != worker.epoch or status.lifecycle is not Lifecycle.READY
                ):
                    yield f"gateway-{index} does not know {name} as it is"
                elif not gateway.reaches(WorkerId(name)):
                    yield f"gateway-{index} does not reach {name}"
            for stranger in sorted(known):
                yield f"gateway-{index} believes in {stranger}"

    def _scenario_gateways(self) -> range:
        return range(self._scenario.gateway_count)

    def _placements_kept(self) -> dict[str, int]:
        return {
            f"gateway-{index}": gateway.router.fleet.placed_count()
            for index, gateway in self._cluster.gateways.items()
        }


class _Ear(logging.Handler):
    """Keeps what is logged as an error by whoever supervises tasks."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.append(record.getMessage())


@contextmanager
def _crashes_heard() -> Iterator[list[str]]:
    """Collect exceptions of tasks that nobody awaits; keep the cluster's own log to itself meanwhile.

    This loop alone is asked: lost tasks of an earlier one may be found at any time.
    """
    heard: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: heard.append(_told(context)))
    ear = _Ear(heard)
    cluster = logging.getLogger("services")
    level, propagate = cluster.level, cluster.propagate
    listened = logging.getLogger("services.runtime.tasks")
    cluster.setLevel(logging.ERROR)
    cluster.propagate = False
    silence = logging.NullHandler()
    cluster.addHandler(silence)
    listened.addHandler(ear)
    try:
        yield heard
    finally:
        loop.set_exception_handler(None)
        listened.removeHandler(ear)
        cluster.removeHandler(silence)
        cluster.setLevel(level)
        cluster.propagate = propagate


def _told(context: Mapping[str, object]) -> str:
    """Say what a loop complains of; the keys are those of `asyncio.loop.call_exception_handler`."""
    about = context.get("exception") or context.get("task") or context.get("future")
    return f"{context['message']}: {about!r}"
