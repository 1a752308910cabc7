"""The conductor: owner of every open request of a gateway.

Comes in: requests of the edge, messages of workers. Goes out: deltas, records, the state of the cluster.
Invariant: each message finds the one life it is for, or is answered in a way that frees what it names;
a life that ends, however it ends, leaves nothing behind and keeps its record.
Not here: the order of what happens to a request (`services.gateway.journey`).
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.bus.port import Bus
from services.domain.blocks import BlockHash, KvSnapshot, hash_blocks
from services.domain.errors import InternalFault, NotReady, Rejected, ServingError, WorkerLost
from services.domain.ids import GatewayId, RequestId, WorkerId
from services.domain.link import (
    Accepted,
    Cancel,
    Goodbye,
    HandoffAnswer,
    HandoffOffer,
    TaskFailed,
    TaskStarted,
    ToGateway,
    Welcome,
)
from services.domain.request import InferenceRequest
from services.domain.stream import Delta, FinishReason, StepFrame
from services.domain.timeline import Mark
from services.domain.worker import Lifecycle, Phase, WorkerStatus
from services.gateway.alone import measure_alone
from services.gateway.journey import Journey
from services.gateway.lessons import Lessons
from services.gateway.life import Claimed, DeadlinePassed, Life, LinkLost, Offer
from services.gateway.links import LinkPool
from services.gateway.port import ClusterState, RequestRecord, ServedModel, ServeOptions
from services.gateway.reach import Reach
from services.gateway.records import RecordBook, prefix_ids
from services.gateway.settings import ConductorSettings
from services.gateway.waiting_room import WaitingRoom
from services.link.port import Dialer
from services.router.feed import Feed
from services.router.placer import LocalPlacer, Placer
from services.router.router import Router
from services.runtime.clock import Clock
from services.runtime.metrics import Meters
from services.runtime.pulse import Pulse
from services.runtime.tasks import Nursery

log = logging.getLogger(__name__)

HASH_INLINE_TOKENS_MAX = 16_384
"""Prompts up to this length are hashed on the event loop (about 1 ms); longer ones in a thread."""

_DONE = (FinishReason.STOP, FinishReason.LENGTH)
"""Ends that a worker reached by itself: nothing is left to cancel."""


class Conductor:
    """Serves requests on a fleet of workers. Implements `services.gateway.port.Serving`."""

    def __init__(
        self,
        settings: ConductorSettings,
        router: Router,
        bus: Bus,
        dialer: Dialer,
        *,
        gateway_id: GatewayId,
        clock: Clock,
        meters: Meters,
        placer: Placer | None = None,
    ) -> None:
        """Put the conductor together; nothing runs yet.

        Args:
            settings: patience and memory.
            router: what is known of fleet, caches and queue; this conductor feeds it.
            bus: NATS, or its stand-in.
            dialer: opens links to workers.
            gateway_id: unique among all gateways, ever.
            clock: of the event loop.
            meters: of this process.
            placer: who decides; None asks `router` itself.
        """
        self.gateway_id = gateway_id
        self._settings = settings
        self.router = router
        self._bus = bus
        self._clock = clock
        self._meters = meters
        self._pulse = Pulse(clock)
        self._nursery = Nursery("conductor")
        self._links = LinkPool(
            dialer,
            gateway_id,
            on_message=self._received,
            on_lost=self._link_lost,
            on_linked=router.fold_links,
        )
        self._reach = Reach(
            gateway_id=gateway_id,
            settings=settings,
            router=router,
            placer=placer or LocalPlacer(router, clock),
            bus=bus,
            links=self._links,
            room=WaitingRoom(
                waiting_max=settings.waiting_max,
                wait_max_s=router.settings.wait_max_s,
                clock=clock,
                meters=meters,
            ),
            clock=clock,
            meters=meters,
            nursery=self._nursery,
        )
        self._feed = Feed(
            router,
            bus,
            snapshot=self._snapshot,
            clock=clock,
            meters=meters,
            on_seen=self._links.seen,
            on_left=self._links.left,
        )
        self._lives: dict[RequestId, Life] = {}
        self._records = RecordBook(settings.records_max, meters)
        self._lessons = Lessons(router, meters)
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Begin to follow fleet, caches and queue."""
        self._nursery.start(self._pulse.run(), "pulse")
        self._nursery.start(self._feed.run(), "feed")

    async def wait_linked(self, worker_ids: frozenset[WorkerId]) -> None:
        """Wait until these workers can be reached; the caller bounds the wait."""
        while any(self._links.get(worker_id) is None for worker_id in worker_ids):
            await self._links.changed()

    def reaches(self, worker_id: WorkerId) -> bool:
        """Whether a link to this worker stands."""
        return self._links.get(worker_id) is not None

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for the open ones; True when all ended in time."""
        self._draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Close all links; open requests end as lost. Idempotent."""
        self._draining = True
        await self._links.close()
        await self._nursery.close()

    # -- Serving --------------------------------------------------------------------------------

    def models(self) -> tuple[ServedModel, ...]:
        """Models of all known workers that decode."""
        longest: dict[str, int] = {}
        for status in self._statuses():
            if Phase.DECODE in status.phases:
                tokens = status.limits.context_tokens_max
                longest[status.model] = max(longest.get(status.model, 0), tokens)
        return tuple(ServedModel(name=n, context_tokens_max=t) for n, t in sorted(longest.items()))

    def ready(self) -> str | None:
        """Why nothing can be served now, or None."""
        if self._draining:
            return "this gateway drains"
        decoders = [
            s for s in self._statuses() if s.lifecycle is Lifecycle.READY and Phase.DECODE in s.phases
        ]
        if not decoders:
            return "no decode worker is ready"
        if all(self._links.get(s.worker_id) is None for s in decoders):
            return "no decode worker can be reached"
        return None

    async def generate(self, request: InferenceRequest, options: ServeOptions) -> AsyncGenerator[Delta]:
        """Serve a request; see `Serving.generate`."""
        life = self._begin(request, options)
        timer = asyncio.get_running_loop().call_at(
            asyncio.get_running_loop().time() + life.deadline_at_s - self._clock.now_s(),
            life.post,
            DeadlinePassed(),
        )
        begun = False
        try:
            size, hashes = await self._hash(life)
            life.prefix_ids = prefix_ids(hashes, size)
            async with aclosing(Journey(life, self._reach, hashes).run()) as deltas:
                async for delta in deltas:
                    life.sent(delta, self._clock.now_s())
                    begun = True
                    yield delta
        except ServingError as error:
            life.finish(FinishReason.ERROR, error, self._clock.now_s())
            if isinstance(error, Rejected):
                self._meters.count("baton_rejections_total", code=error.code)
            if not begun:
                raise
            yield Delta(request_id=request.request_id, finish=FinishReason.ERROR, error=error)
        finally:
            timer.cancel()
            self._end(life)

    def _begin(self, request: InferenceRequest, options: ServeOptions) -> Life:
        if self._draining:
            raise NotReady(message="this gateway drains; send the request to another", retry_after_s=1.0)
        if request.request_id in self._lives:
            raise InternalFault(message=f"request id {request.request_id} is in use")
        deadline_s = self._settings.deadline_s if options.deadline_s is None else options.deadline_s
        life = Life(request, options, now_s=self._clock.now_s(), deadline_s=deadline_s)
        self._lives[request.request_id] = life
        self._idle.clear()
        self._meters.count("baton_requests_accepted_total")
        self._meters.set("baton_requests_active", len(self._lives))
        return life

    async def _hash(self, life: Life) -> tuple[int, tuple[BlockHash, ...]]:
        """Hash the prompt in blocks of the engine's size, in tokens."""
        request = life.request
        views = self.router.fleet.serving(request.model, Phase.DECODE)
        if not views:
            return 1, ()
        size = views[0].limits.block_size_tokens
        if request.prompt_tokens <= HASH_INLINE_TOKENS_MAX:
            return size, hash_blocks(request.prompt_token_ids, block_size_tokens=size, scope=request.scope)
        return size, await asyncio.to_thread(
            hash_blocks, request.prompt_token_ids, block_size_tokens=size, scope=request.scope
        )

    def _end(self, life: Life) -> None:
        """Free whatever a life still holds, and keep its record."""
        life.finish(FinishReason.ABORTED, None, self._clock.now_s())
        self._reach.close_offer(life)
        record = life.record()
        self._reach.drop_attempt(life, cancel=record.finish not in _DONE)
        self.router.fold_ended(life.request.request_id)
        self._lessons.learn(record, priority=life.request.priority)
        del self._lives[life.request.request_id]
        if not self._lives:
            self._idle.set()
        self._records.add(record)
        measure_alone(record, self._status_of, self._meters)
        self._meters.set("baton_requests_active", len(self._lives))

    def _status_of(self, worker_id: WorkerId) -> WorkerStatus | None:
        view = self.router.fleet.get(worker_id)
        return None if view is None else view.status

    def record(self, request_id: RequestId) -> RequestRecord | None:
        """What is known of a request, open or ended."""
        life = self._lives.get(request_id)
        return self._records.get(request_id) if life is None else life.record()

    def recent(self) -> tuple[RequestRecord, ...]:
        """Records still kept, newest first."""
        return self._records.recent()

    def cluster(self) -> ClusterState:
        """The cluster as this gateway sees it."""
        return ClusterState(
            workers=self._statuses(),
            queue_waiting_count=self._feed.queued_count(),
            active_count=len(self._lives),
            bus_connected=self._bus.connected,
            waiting_count=len(self._reach.room),
        )

    def _statuses(self) -> tuple[WorkerStatus, ...]:
        return tuple(view.status for view in self.router.fleet.workers())

    # -- what workers say -----------------------------------------------------------------------

    def _received(self, worker_id: WorkerId, message: ToGateway) -> None:
        match message:
            case StepFrame(deltas=deltas):
                for delta in deltas:
                    life = self._reach.attempts.get(delta.request_id)
                    if life is not None:
                        life.post(delta)
            case Accepted(request_id=request_id):
                self._accepted(request_id)
            case TaskStarted(request_id=request_id):
                life = self._reach.attempts.get(request_id)
                if life is None:
                    self._links.send(worker_id, Cancel(request_id=request_id))
                else:
                    life.post(Claimed(worker_id=worker_id))
            case HandoffOffer():
                self._offered(worker_id, message)
            case TaskFailed(request_id=request_id):
                life = self._reach.attempts.get(request_id)
                if life is not None:
                    life.post(message)
            case Goodbye():
                self.router.fold_goodbye(worker_id)
            case Welcome():
                pass  # the status says the same to every gateway

    def _accepted(self, request_id: RequestId) -> None:
        life = self._reach.attempts.get(request_id)
        if life is None:
            return
        life.mark(Mark.HANDED_OVER, self._clock.now_s())
        self._reach.answer_offer(life, taken=True, pulled=True)

    def _offered(self, worker_id: WorkerId, message: HandoffOffer) -> None:
        handoff = message.handoff
        life = self._reach.attempts.get(handoff.request_id)
        if life is None or life.offer is not None:
            ticket_id = None if handoff.ticket is None else handoff.ticket.ticket_id
            refusal = HandoffAnswer(
                task_id=handoff.task_id,
                request_id=handoff.request_id,
                ticket_id=ticket_id,
                taken=False,
                pulled=False,
            )
            self._links.send(worker_id, refusal)
            return
        received_s = self._clock.now_s() - self._pulse.doubt_s()
        life.offer = Offer(worker_id=worker_id, handoff=handoff, received_s=received_s)
        life.post(life.offer)

    def _link_lost(self, worker_id: WorkerId) -> None:
        for life in self._lives.values():
            if worker_id in (life.prefill_worker_id, life.decode_worker_id):
                life.post(LinkLost(worker_id=worker_id))

    # -- what the router needs ------------------------------------------------------------------

    async def _snapshot(self, worker_id: WorkerId) -> KvSnapshot:
        link = self._links.get(worker_id)
        if link is None:
            raise WorkerLost(worker_id=worker_id, message=f"no link to {worker_id} yet")
        return await link.snapshot()
