"""One worker: an engine, its phases, its links and its place in the fleet.

Comes in: an engine, a bus, a link server, orders. Goes out: status, KV events, and what the phases send.
Invariant: a worker is announced only while its engine is healthy; after `drain` nothing new begins and
`drained` is true once nothing runs, waits for an answer or is leased.
Not here: what the phases do (`services.prefill`, `services.decode`), the process (`services.worker.process`).
"""

import asyncio
import logging
from collections.abc import Iterator

from services.bus.port import Bus, WorkerSeen
from services.decode.phase import DecodePhase
from services.domain.blocks import KvEvent, KvEventBatch, KvSnapshot
from services.domain.errors import BusUnavailable, EngineFailed, ServingError
from services.domain.ids import EngineEpoch, GatewayId, WorkerId
from services.domain.integrity import IntegrityLimits, IntegrityRecord, KvChecked, Verdict
from services.domain.link import Cancel, Goodbye, HandoffAnswer, Hello, StartDecode, ToWorker
from services.domain.pace import PaceRecord, correct
from services.domain.performance import PerformanceModel
from services.domain.together import together
from services.domain.worker import Lifecycle, Phase, RoleOrder, WorkerStatus
from services.engine.port import DecodeJob, Engine, EngineInfo, EngineStep
from services.link.port import GatewayLink, LinkServer
from services.prefill.ordering import Claimant
from services.prefill.phase import PrefillPhase
from services.prefill.stalling import Stalls
from services.runtime.clock import Clock
from services.runtime.metrics import Meters
from services.runtime.pulse import Pulse
from services.runtime.tasks import Nursery
from services.worker.holdings import Holdings
from services.worker.peers import Peers
from services.worker.role import Role
from services.worker.settings import WorkerSettings
from services.worker.warm_up import WARM_UP, warm_up_request

log = logging.getLogger(__name__)

DRAIN_POLL_S = 0.05

WARM_UP_TIMEOUT_S = 120.0

ORDERS_RETRY_S = 1.0
"""Wait before orders are listened for again."""

KV_OUTBOX_BATCHES_MAX = 1024
"""Batches that wait for the bus; beyond that the oldest is dropped and routers ask for a snapshot."""


class Worker:
    """Everything one engine does for the cluster. Also the `WorkerEndpoint` of its link server."""

    def __init__(
        self,
        settings: WorkerSettings,
        engine: Engine,
        bus: Bus,
        links: LinkServer,
        *,
        clock: Clock,
        meters: Meters,
    ) -> None:
        self.worker_id = WorkerId(settings.worker_id)
        self.epoch = EngineEpoch("")
        self._settings = settings
        self._engine = engine
        self._bus = bus
        self._server = links
        self._clock = clock
        self._pulse = Pulse(clock)
        self._meters = meters
        self._lifecycle = Lifecycle.STARTING
        self._links: dict[GatewayId, GatewayLink] = {}
        self._nursery = Nursery(settings.worker_id)
        self._role = Role(settings.phases)
        self._knows_peers = False
        self._status_sequence = 0
        self._peers = Peers(self.worker_id, settings.model)
        self._holdings = Holdings(self.worker_id)
        self._kv_outbox: asyncio.Queue[KvEventBatch] = asyncio.Queue(KV_OUTBOX_BATCHES_MAX)
        self._warm = asyncio.Event()
        self._doubt = asyncio.Event()
        """Set when the engine failed a job: its health is asked at once."""
        self._integrity = IntegrityRecord(
            IntegrityLimits(mismatches_max=settings.kv_mismatches_max, window_s=settings.kv_mismatch_window_s)
        )
        self._pace = PaceRecord()
        self._suspects: dict[EngineEpoch, float] = {}
        """Until when each is accused; by `_clock`."""
        self.failed = asyncio.Event()
        """Set when the engine is found dead or its KV untrustworthy; the process should exit and be
        restarted."""

    async def start(self) -> None:
        """Load the engine, open the links, join the fleet.

        Raises:
            EngineFailed: the engine did not come up, or computes nothing.
            ConfigurationInvalid: the link address cannot be bound.
        """
        self._info = await self._engine.start(self._stepped, self._cache_changed)
        self.epoch = self._info.epoch
        self._holdings.belong_to(self.epoch)
        self._decode = DecodePhase(
            self._engine, self._info, clock=self._clock, doubt_s=self._pulse.doubt_s, meters=self._meters
        )
        self._prefill = self._make_prefill(self._info)
        await self._warm_up()
        self._pace = PaceRecord()  # the first steps of an engine are its slowest
        self._nursery.start(self._pulse.run(), "pulse")
        self._nursery.start(self._publish_kv(), "kv")
        self._address = await self._server.serve(self)
        self._lifecycle = Lifecycle.READY
        self._take(self._role.phases)
        self._nursery.start(self._prefill.run(), "prefill")
        self._nursery.start(self._obey(), "orders")
        self._nursery.start(self._announce(), "announce")
        self._nursery.start(self._watch_engine(), "health")

    async def _warm_up(self) -> None:
        """Compute a throw-away prompt under a cache scope that no client can name."""
        request = warm_up_request(self._settings, self._info.limits, self.epoch)
        if request is None:
            return
        self._engine.submit(DecodeJob(request=request))
        try:
            async with asyncio.timeout(WARM_UP_TIMEOUT_S):
                await self._warm.wait()
        except TimeoutError:
            raise EngineFailed(
                worker_id=self.worker_id,
                message=f"the engine computed no prompt of {request.prompt_tokens} tokens within "
                f"{WARM_UP_TIMEOUT_S:g} s",
            ) from None
        await self._engine.check_health()

    def _make_prefill(self, info: EngineInfo) -> PrefillPhase:
        return PrefillPhase(
            self._engine,
            info,
            self._bus,
            self._settings.prefill,
            worker_id=self.worker_id,
            links=self._links,
            claimant=self._as_claimant,
            clock=self._clock,
            doubt_s=self._pulse.doubt_s,
            meters=self._meters,
        )

    def _as_claimant(self) -> Claimant:
        performance = correct(self._info.performance, self._pace.pace)
        return Claimant(
            worker_id=self.worker_id,
            model=self._settings.model,
            block_size_tokens=self._info.limits.block_size_tokens,
            step_tokens_max=self._info.limits.step_tokens_max,
            performance=performance,
            holds=self._holdings.__contains__,
            reachable=frozenset(self._links),
            peer_count=self._peers.count,
            stalls=self._stalls(performance),
            has_reader=Phase.DECODE in self._role.phases
            or self._peers.can_read(self._info.limits.compatibility),
        )

    def _stalls(self, performance: PerformanceModel) -> Stalls:
        load = self._engine.load()
        return Stalls(
            self._decode.accounts(),
            survival=self._decode.lengths.survival(),
            decode_step_s=performance.decode_s(
                sequence_count=load.running_count, context_tokens=load.running_context_tokens
            ),
            has_free_peer=self._peers.has_free,
            begins=together(
                self._prefill.beginning(),
                performance=performance,
                step_tokens_max=self._info.limits.step_tokens_max,
            ),
        )

    # -- engine ---------------------------------------------------------------------------------

    def _stepped(self, step: EngineStep) -> None:
        self._prefill.stepped()
        for result in step.prefilled:
            self._prefill.finished(result)
        if any(isinstance(error, EngineFailed) for error in _errors(step)):
            self._doubt.set()
        if step.span is not None:
            self._pace.fold(step.span)
        if step.deltas:
            self._decode.step(step.deltas, stalled=step.span is not None and step.span.prefill_s > 0.0)
            if not self._warm.is_set() and any(d.request_id == WARM_UP and d.finish for d in step.deltas):
                self._warm.set()
        if step.pulled is not None:
            self._meters.count("baton_kv_pulled_bytes_total", step.pulled.moved_bytes)
            self._meters.count("baton_kv_pulling_seconds_total", step.pulled.moving_s)
        for checked in step.kv_checks:
            self._judge(checked)

    def _judge(self, checked: KvChecked) -> None:
        """Count a check of pulled blocks; give the engine up when too many found a difference."""
        self._meters.count("baton_kv_checks_total", outcome="matched" if checked.matched else "mismatched")
        if not checked.matched:
            log.warning(
                "KV blocks of worker %s arrived changed; its prompt is computed again", checked.source
            )
        now_s = self._clock.now_s()
        match self._integrity.fold(checked, now_s=now_s):
            case Verdict(at_fault=None, reason=reason):
                self._give_up(reason)
            case Verdict(at_fault=str() as epoch, reason=reason):
                log.error("worker %s is at fault: %s", checked.source, reason)
                self._suspects[epoch] = now_s + self._settings.kv_mismatch_window_s
            case None:
                pass

    def _give_up(self, reason: str) -> None:
        if not self.failed.is_set():
            log.error("this worker gives up: %s", reason)
            self.failed.set()

    def _cache_changed(self, events: tuple[KvEvent, ...]) -> None:
        batch = self._holdings.fold(events)
        if self._kv_outbox.full():
            self._kv_outbox.get_nowait()  # readers see the gap and ask for a snapshot
            self._meters.count("baton_dropped_total", what="kv_outbox")
        self._kv_outbox.put_nowait(batch)

    async def _publish_kv(self) -> None:
        while True:
            await self._bus.publish_kv(await self._kv_outbox.get())

    async def _watch_engine(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._settings.health_period_s):
                    await self._doubt.wait()
            except TimeoutError:
                pass
            self._doubt.clear()
            try:
                await self._engine.check_health()
            except EngineFailed as error:
                log.error("engine is dead: %s", error)
                self._prefill.begin_drain()
                self._decode.begin_drain()
                self.failed.set()
                return

    # -- links ----------------------------------------------------------------------------------

    def opened(self, link: GatewayLink) -> None:
        """A gateway attached."""
        self._links[link.gateway_id] = link
        if self._lifecycle is not Lifecycle.READY:
            link.send(Goodbye())

    def received(self, link: GatewayLink, message: ToWorker) -> None:
        """A gateway said something."""
        match message:
            case StartDecode():
                self._decode.start(link, message)
            case Cancel(request_id=request_id):
                self._decode.cancel(link, request_id)
                self._prefill.cancel(request_id)
            case HandoffAnswer():
                self._prefill.answered(message)
            case Hello():
                pass

    def closed(self, link: GatewayLink) -> None:
        """A gateway is gone."""
        if self._links.get(link.gateway_id) is link:
            del self._links[link.gateway_id]
            self._prefill.gateway_gone(link.gateway_id)
        self._decode.gateway_gone(link)

    def snapshot(self) -> KvSnapshot:
        """Everything the cache holds, as far as batches were numbered."""
        return self._holdings.snapshot()

    # -- fleet ----------------------------------------------------------------------------------

    def status(self) -> WorkerStatus:
        """This worker at this moment."""
        self._status_sequence += 1
        load = self._engine.load()
        now_s = self._clock.now_s()
        self._suspects = {epoch: until_s for epoch, until_s in self._suspects.items() if until_s > now_s}
        total = self._info.limits.kv_blocks
        self._meters.set("baton_bus_connected", float(self._bus.connected))
        self._meters.set("baton_engine_running", load.running_count)
        self._meters.set("baton_engine_waiting", load.waiting_count)
        self._meters.set("baton_engine_leased_blocks", load.leased_blocks)
        self._meters.set("baton_engine_kv_used_ratio", load.kv_used_blocks / total)
        self._meters.set("baton_engine_pace_ratio", self._pace.pace.prefill, phase=Phase.PREFILL)
        self._meters.set("baton_engine_pace_ratio", self._pace.pace.decode, phase=Phase.DECODE)
        return WorkerStatus(
            worker_id=self.worker_id,
            epoch=self.epoch,
            sequence=self._status_sequence,
            model=self._settings.model,
            phases=self._role.phases,
            lifecycle=self._lifecycle,
            address=self._address,
            limits=self._info.limits,
            load=load,
            performance=correct(self._info.performance, self._pace.pace),
            engine_kind=self._info.kind,
            kv_sequence=self._holdings.sequence,
            suspects=tuple(sorted(self._suspects)),
        )

    async def _announce(self) -> None:
        while True:
            await self._announce_once()
            await asyncio.sleep(self._settings.status_period_s)

    async def _announce_once(self) -> None:
        try:
            await self._bus.announce(self.status(), ttl_s=self._settings.status_ttl_s)
        except BusUnavailable as error:
            log.warning("status not published: %s", error)

    async def _obey(self) -> None:
        """Follow the orders that change this worker's role."""
        while True:
            try:
                async with self._bus.watch_roles(self.worker_id) as orders:
                    async for order in orders:
                        await self._turn(order)
            except BusUnavailable as error:
                log.warning("orders cannot be heard, trying again: %s", error)
            await asyncio.sleep(ORDERS_RETRY_S)

    async def _turn(self, order: RoleOrder) -> None:
        """Take another role: new work comes of it alone, what is here goes on to its end."""
        is_able = self._lifecycle is Lifecycle.READY and not self.failed.is_set()
        if order.epoch != self.epoch or not is_able or not self._role.is_another(order.phases):
            return
        log.info("turned from %s to %s", "+".join(self._role.phases), "+".join(order.phases))
        self._take(order.phases)
        await self._announce_once()

    def _take(self, phases: tuple[Phase, ...]) -> None:
        self._role.turn(phases, self._prefill, self._decode)
        if Phase.PREFILL in phases and not self._knows_peers:
            self._knows_peers = True  # and for good: what it handed over may be found changed later
            self._nursery.start(self._watch_peers(), "peers")

    async def _watch_peers(self) -> None:
        """Know who else may take a task, and whether one who pulls accuses this one."""
        async with self._bus.watch_fleet() as changes:
            async for change in changes:
                self._peers.fold(change)
                if isinstance(change, WorkerSeen) and self.epoch in change.status.suspects:
                    self._give_up(f"its KV repeatedly arrived changed at worker {change.status.worker_id}")

    # -- end ------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new, finish what runs; True when everything ended in time."""
        self._lifecycle = Lifecycle.DRAINING
        self._prefill.begin_drain()
        self._decode.begin_drain()
        for link in self._links.values():
            link.send(Goodbye())
        await self._announce_once()
        try:
            async with asyncio.timeout(timeout_s):
                while len(self._prefill) or len(self._decode) or self._engine.load().leased_blocks:  # noqa: ASYNC110
                    await asyncio.sleep(DRAIN_POLL_S)
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Leave the fleet and end the engine; idempotent."""
        self._lifecycle = Lifecycle.STOPPED
        await self._nursery.close()
        if self.epoch:
            await self._prefill.close()
        try:
            await self._bus.withdraw(self.worker_id)
        except BusUnavailable as error:
            log.warning("left without a word: %s", error)
        await self._server.close()
        await self._engine.stop()


def _errors(step: EngineStep) -> Iterator[ServingError | None]:
    yield from (result.first.error for result in step.prefilled)
    yield from (delta.error for delta in step.deltas)
