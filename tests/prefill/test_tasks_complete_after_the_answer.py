"""The prefill phase: a task stays in the queue until its handoff is answered, and leaves nothing behind."""

import asyncio
from collections.abc import Awaitable, Callable

from services.bus.memory import MemoryBroker, MemoryBus
from services.domain.blocks import CacheScope
from services.domain.errors import DeadlineExceeded, DeadlineUnmeetable, ServingError
from services.domain.handoff import Handoff
from services.domain.ids import GatewayId, RequestId, TaskId, WorkerId
from services.domain.link import HandoffAnswer, HandoffOffer, TaskFailed, TaskStarted, ToGateway
from services.domain.request import InferenceRequest, Sampling
from services.domain.task import PrefillTask, TaskRecord
from services.engine.port import EngineStep
from services.engine.simulated.engine import SimulatedEngine
from services.engine.simulated.settings import SimulatedSettings
from services.link.port import GatewayLink
from services.prefill.ordering import Claimant
from services.prefill.phase import PrefillPhase
from services.prefill.settings import PrefillSettings
from services.runtime.clock import LoopClock, run_virtual
from services.runtime.metrics import Meters

GATEWAY = GatewayId("gateway")


class Inbox:
    """A gateway's end of a link that keeps what it is sent."""

    gateway_id = GATEWAY

    def __init__(self) -> None:
        self.messages: list[ToGateway] = []

    def send(self, message: ToGateway) -> bool:
        """Keep a message."""
        self.messages.append(message)
        return True

    def failures(self) -> list[ServingError | None]:
        """Errors of tasks that were given up."""
        return [m.final.error for m in self.messages if isinstance(m, TaskFailed)]

    def offers(self) -> list[Handoff]:
        """Handoffs offered so far."""
        return [m.handoff for m in self.messages if isinstance(m, HandoffOffer)]


class Station:
    """One prefill worker on a memory bus, with a gateway that listens."""

    def __init__(self, settings: PrefillSettings) -> None:
        self.settings = settings
        self.broker = MemoryBroker()
        self.gateway_bus = MemoryBus(self.broker, "gateway")
        self.inbox = Inbox()

    async def open(self) -> None:
        """Start engine and phase."""
        self.engine = SimulatedEngine(SimulatedSettings(), worker_id=WorkerId("p"))
        info = await self.engine.start(self._step, lambda _: None)
        links: dict[GatewayId, GatewayLink] = {GATEWAY: self.inbox}
        self.phase = PrefillPhase(
            self.engine,
            info,
            MemoryBus(self.broker, "p"),
            self.settings,
            worker_id=WorkerId("p"),
            links=links,
            claimant=lambda: Claimant(
                worker_id=WorkerId("p"),
                model="m",
                block_size_tokens=info.limits.block_size_tokens,
                step_tokens_max=info.limits.step_tokens_max,
                performance=info.performance,
                holds=lambda _: False,
                reachable=frozenset({GATEWAY}),
                peer_count=1,
            ),
            doubt_s=lambda: 0.0,
            clock=LoopClock(),
            meters=Meters(),
        )
        self.running = asyncio.ensure_future(self.phase.run())

    def _step(self, step: EngineStep) -> None:
        for result in step.prefilled:
            self.phase.finished(result)

    async def close(self) -> None:
        """Stop everything."""
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.phase.close()
        await self.engine.stop()

    async def enqueue(
        self, name: str, tokens: int = 2000, *, deadline_s: float = 600.0, decode_s: float = 0.0
    ) -> None:
        """Put a task in the queue."""
        record = TaskRecord(
            task_id=TaskId(name),
            gateway_id=GATEWAY,
            model="m",
            priority=0,
            prompt_tokens=tokens,
            marks=(),
            deadline_s=deadline_s,
            ttft_target_s=1.0,
            decode_s=decode_s,
        )
        request = InferenceRequest(
            request_id=RequestId(name),
            scope=CacheScope(model="m"),
            prompt_token_ids=tuple(300 + i % 3000 for i in range(tokens)),
            sampling=Sampling(max_tokens=10, temperature=0.0, ignore_eos=True),
        )
        await self.gateway_bus.queue.enqueue(PrefillTask(record=record, request=request))

    def answer(self, handoff: Handoff, *, taken: bool, pulled: bool) -> None:
        """Answer an offer."""
        self.phase.answered(
            HandoffAnswer(
                task_id=handoff.task_id,
                request_id=handoff.request_id,
                ticket_id=None if handoff.ticket is None else handoff.ticket.ticket_id,
                taken=taken,
                pulled=pulled,
            )
        )


def at_station(work: Callable[[Station], Awaitable[None]], settings: PrefillSettings | None = None) -> None:
    """Run a test at a station on the virtual clock."""

    async def main() -> None:
        station = Station(settings or PrefillSettings())
        await station.open()
        try:
            await work(station)
        finally:
            await station.close()

    run_virtual(main())


def test_a_task_is_complete_only_after_its_answer() -> None:
    """Until the gateway answers the task is in the queue; after it, it is gone and stays gone."""

    async def work(station: Station) -> None:
        await station.enqueue("t")
        await asyncio.sleep(1.0)
        (offer,) = station.inbox.offers()
        assert await station.gateway_bus.queue.waiting_count() == 1
        station.answer(offer, taken=True, pulled=True)
        await asyncio.sleep(0.1)
        assert await station.gateway_bus.queue.waiting_count() == 0
        assert [type(m) for m in station.inbox.messages] == [TaskStarted, HandoffOffer]
        assert len(station.phase) == 0

    at_station(work)


def test_a_refused_handoff_frees_its_blocks_at_once() -> None:
    """Nobody will pull: the lease ends with the answer, not with its time."""

    async def work(station: Station) -> None:
        await station.enqueue("t")
        await asyncio.sleep(1.0)
        assert station.engine.load().leased_blocks > 0
        station.answer(station.inbox.offers()[0], taken=False, pulled=False)
        await asyncio.sleep(0.1)
        assert station.engine.load().leased_blocks == 0
        assert await station.gateway_bus.queue.waiting_count() == 0

    at_station(work)


def test_an_unanswered_handoff_is_given_up() -> None:
    """A gateway that says nothing costs its patience; its blocks, which may be read, stay for their lease."""

    async def work(station: Station) -> None:
        await station.enqueue("t")
        await asyncio.sleep(1.0)
        assert station.inbox.offers()
        await asyncio.sleep(station.settings.answer_timeout_s)
        assert station.engine.load().leased_blocks > 0
        assert await station.gateway_bus.queue.waiting_count() == 0
        assert len(station.phase) == 0
        await asyncio.sleep(SimulatedSettings().lease_s)
        assert station.engine.load().leased_blocks == 0


def test_a_late_refusal_frees_the_blocks() -> None:
    """An answer that comes after the patience still says whether anybody reads."""

    async def work(station: Station) -> None:
        await station.enqueue("t")
        await asyncio.sleep(1.0)
        offer = station.inbox.offers()[0]
        await asyncio.sleep(station.settings.answer_timeout_s)
        station.answer(offer, taken=False, pulled=False)
        assert station.engine.load().leased_blocks == 0

    at_station(work)

    at_station(work)


def test_a_cancelled_task_is_neither_started_nor_finished() -> None:
    """Cancelled while it waits, it never starts; cancelled while it runs, the engine stops it."""

    async def work(station: Station) -> None:
        for i in range(6):
            await station.enqueue(f"t{i}", tokens=8000)
        await asyncio.sleep(0.03)
        started = {m.task_id for m in station.inbox.messages if isinstance(m, TaskStarted)}
        assert 0 < len(started) < 6
        waiting_first = sorted((f"t{i}" for i in range(6)), key=lambda name: TaskId(name) in started)
        for name in waiting_first:
            await station.gateway_bus.queue.cancel(TaskId(name))
        await asyncio.sleep(5.0)
        assert {m.task_id for m in station.inbox.messages if isinstance(m, TaskStarted)} == started
        assert not station.inbox.offers()
        assert station.engine.load().kv_used_blocks == 0
        assert len(station.phase) == 0

    at_station(work)


def test_late_binding_leaves_the_rest_in_the_queue() -> None:
    """A worker claims one step's worth of prompts, so that others may take what still waits."""

    async def work(station: Station) -> None:
        for i in range(10):
            await station.enqueue(f"t{i}", tokens=8000)
        await asyncio.sleep(0.03)
        assert len(station.phase) <= 2

    at_station(work)


def test_a_claim_outlives_a_long_prefill() -> None:
    """Renewal keeps a task claimed for far longer than a claim lasts by itself."""

    async def work(station: Station) -> None:
        await station.enqueue("t", tokens=2000)
        await asyncio.sleep(1.0)
        async with station.gateway_bus.queue.view() as view:
            await asyncio.sleep(8.0)
            queued = view.get(TaskId("t"))
            assert queued is not None
            assert queued.claim is not None
            assert queued.attempts == 1

    at_station(work)


def test_an_engine_that_dies_is_told_to_the_gateway_in_the_end() -> None:
    """After the last attempt the gateway hears that the task failed, and the task is gone."""

    async def work(station: Station) -> None:
        station.engine.crash()
        await station.enqueue("t")
        await asyncio.sleep(5.0)
        assert [m for m in station.inbox.messages if isinstance(m, TaskFailed)]
        assert await station.gateway_bus.queue.waiting_count() == 0

    at_station(work)


def test_a_deadline_ends_a_prefill_without_the_bus() -> None:
    """The bus is away and cannot remove the task: the phase's own timer stops the engine in time."""

    async def work(station: Station) -> None:
        await station.enqueue("t", tokens=8000, deadline_s=1.5)
        await asyncio.sleep(0.1)
        station.broker.partition("p", cut=True)
        station.broker.partition("gateway", cut=True)
        # What it was predicted to take fits; the engine hangs.
        station.engine.freeze()
        await asyncio.sleep(1.5)
        station.engine.thaw()
        assert len(station.phase) == 0
        assert [type(e) for e in station.inbox.failures()] == [DeadlineExceeded]
        await asyncio.sleep(0.1)
        assert station.engine.load().kv_used_blocks == 0
        assert station.inbox.offers() == []

    at_station(work)


def test_a_hopeless_task_leaves_the_queue_uncomputed() -> None:
    """What can no longer be done in time is told to its gateway, and the engine never sees it."""

    async def work(station: Station) -> None:
        await station.enqueue("t", deadline_s=1.0, decode_s=0.99)
        await asyncio.sleep(0.01)
        assert [type(e) for e in station.inbox.failures()] == [DeadlineUnmeetable]
        assert not any(isinstance(m, TaskStarted) for m in station.inbox.messages)
        assert station.engine.load().waiting_count == 0
        assert station.broker.tasks_count() == 0

    at_station(work)
