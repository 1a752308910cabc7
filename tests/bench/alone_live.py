"""The live router and the live order of claims over workers that only prefill.

Comes in: prompts. Goes out: who was late. Decisions are those of `services.router.router.Router` and of
`services.prefill.ordering.order`, asked as gateway and worker ask them.
Not here: what the routers know (`alone_news`), how fast workers are (`alone_engine`).
"""

from dataclasses import dataclass

from services.domain.blocks import CacheScope
from services.domain.errors import Rejected
from services.domain.ids import GatewayId, RequestId, TaskId
from services.domain.placement import PathPreference, PlacementQuery
from services.domain.task import Claim, QueuedTask, TaskRecord, mark_prefix
from services.prefill.ordering import Claimant, Leave, Take, order
from services.replay.presets import EngineTiming
from services.router.settings import RouterSettings
from tests.bench.alone_engine import Clock, Prompt, kv_events
from tests.bench.alone_news import InformedRouter, News
from tests.bench.alone_tally import Tally
from tests.bench.alone_worker import MODEL, PrefillWorker

GATEWAY = GatewayId("gateway")
BUS_S = 0.001
"""From a gateway to the queue's mirrors, and from a claim to the engine (docs/decisions/0002)."""
CHURN_S = 60.0
"""Between two departures."""
SETTINGS = RouterSettings(early_rejection=False)
"""All defaults but this: here everything is served, and counted when it is late."""

ON_TIME = News()
"""Late by 100 ms, complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One row of the table.

    Attributes:
        worker_count: at any moment.
        router_count: each is asked about every so many-th request.
        news: how it reaches the routers.
        churn: whether a worker leaves and an empty one joins every `CHURN_S`.
    """

    worker_count: int = 8
    router_count: int = 1
    news: News = ON_TIME
    churn: bool = False


@dataclass(slots=True, kw_only=True)
class _Waiting:
    record: TaskRecord
    prompt: Prompt
    router: InformedRouter
    seen_s: float
    claim: Claim | None = None

    def queued(self, now_s: float) -> QueuedTask:
        return QueuedTask(
            record=self.record,
            revision=1,
            claim=self.claim,
            attempts=int(self.claim is not None),
            waited_s=now_s - self.seen_s,
        )


class LiveFleet:
    """Gateways, routers, the queue and workers."""

    def __init__(
        self, clock: Clock, tally: Tally, timing: EngineTiming, setup: Setup, parents: dict[int, int]
    ) -> None:
        """Begin with empty caches.

        Args:
            clock: of the run.
            tally: counts what is served.
            timing: of each worker.
            setup: what is tried.
            parents: name of each block to the one before it.
        """
        self._clock, self._tally, self._timing, self._setup = clock, tally, timing, setup
        self._parents = parents
        self._queue: dict[TaskId, _Waiting] = {}
        self._workers: list[PrefillWorker] = []
        self._joined_count = self._past_hit_tokens = 0
        self.preferred_count = 0
        """Claims by the worker that the router had named."""
        self.routers = [
            InformedRouter(
                clock,
                SETTINGS,
                setup.news,
                timing=timing,
                seed=number,
                queue=self._tasks,
            )
            for number in range(setup.router_count)
        ]
        for _ in range(setup.worker_count):
            self._join()
        if setup.churn:
            clock.after(CHURN_S, self._churn)

    def hit_tokens(self) -> int:
        """Prompt tokens found in a cache so far."""
        return self._past_hit_tokens + sum(worker.engine.hit_tokens for worker in self._workers)

    # -- gateways ---------------------------------------------------------------------------------

    def arrive(self, prompt: Prompt) -> None:
        """Place a prompt and put it into the queue."""
        informed = self.routers[prompt.index % len(self.routers)]
        query = PlacementQuery(
            request_id=RequestId(f"r{prompt.index}"),
            scope=CacheScope(model=MODEL),
            prompt_tokens=prompt.prompt_tokens,
            block_hashes=prompt.names,
            output_tokens_max=1,
            preference=PathPreference.REMOTE,
        )
        placed = informed.router.place(query, self._clock.now_s)
        if isinstance(placed, Rejected):
            raise placed
        record = TaskRecord(
            task_id=TaskId(f"t{prompt.index}"),
            gateway_id=GATEWAY,
            model=MODEL,
            priority=0,
            prompt_tokens=prompt.prompt_tokens,
            marks=mark_prefix(prompt.names),
            deadline_s=None,
            ttft_target_s=SETTINGS.ttft_target_s,
            preferred_worker_id=placed.worker_id,
            preferred_overlap_blocks=placed.overlap_blocks,
        )
        waiting = _Waiting(record=record, prompt=prompt, router=informed, seen_s=self._clock.now_s + BUS_S)
        self._clock.after(BUS_S, lambda: self._enqueue(waiting))

    def _enqueue(self, waiting: _Waiting) -> None:
        self._queue[waiting.record.task_id] = waiting
        self._wake()

    def _wake(self) -> None:
        """Let everybody with room look: the queue changed."""
        for worker in tuple(self._workers):
            self._look(worker)

    def _tasks(self) -> list[QueuedTask]:
        now_s = self._clock.now_s
        return [waiting.queued(now_s) for waiting in self._queue.values()]

    # -- workers ----------------------------------------------------------------------------------

    def _look(self, worker: PrefillWorker) -> None:
        """Claim what the order says, while there is room; one claim after the other."""
        if worker.draining or worker.claiming or not worker.has_room():
            return
        match order(self._tasks(), self._claimant(worker)):
            case Take() as taken:
                self._claim(worker, taken)
            case Leave(retry_s=float(retry_s)):
                again_s = self._clock.now_s + max(retry_s, 1e-4)
                if again_s < worker.looks_again_s:
                    worker.looks_again_s = again_s
                    self._clock.after(again_s - self._clock.now_s, lambda: self._look_again(worker, again_s))

    def _look_again(self, worker: PrefillWorker, at_s: float) -> None:
        if worker.looks_again_s == at_s:
            worker.looks_again_s = float("inf")
            self._look(worker)

    def _claim(self, worker: PrefillWorker, taken: Take) -> None:
        waiting = self._queue[taken.queued.record.task_id]
        waiting.claim = Claim(worker_id=worker.worker_id, attempt=1)
        self.preferred_count += waiting.record.preferred_worker_id == worker.worker_id
        worker.claiming = True
        worker.computing[waiting.prompt.index] = max(1, waiting.prompt.prompt_tokens - taken.overlap_tokens)
        self._clock.after(BUS_S, lambda: self._begin(worker, waiting.prompt))

    def _begin(self, worker: PrefillWorker, prompt: Prompt) -> None:
        worker.claiming = False
        worker.engine.submit(prompt)
        self._step(worker)
        self._look(worker)

    def _step(self, worker: PrefillWorker) -> None:
        if worker.engine.stepping:
            return
        step_s = worker.engine.begin_step()
        self._publish(worker)
        if step_s is not None:
            self._clock.after(step_s, lambda: self._end(worker))

    def _end(self, worker: PrefillWorker) -> None:
        for prompt in worker.engine.end_step():
            waiting = self._queue.pop(TaskId(f"t{prompt.index}"))
            del worker.computing[prompt.index]
            waiting.router.router.fold_ended(RequestId(f"r{prompt.index}"))
            self._tally.served(prompt, self._clock.now_s)
        self._step(worker)
        self._wake()

    def _publish(self, worker: PrefillWorker) -> None:
        """Tell what became readable, and what was evicted."""
        events = kv_events(worker.cache, self._parents)
        if events:
            batch = worker.holdings.fold(events)
            for router in self.routers:
                router.stored(worker, batch)

    def _claimant(self, worker: PrefillWorker) -> Claimant:
        return Claimant(
            worker_id=worker.worker_id,
            model=MODEL,
            block_size_tokens=self._timing.block_size_tokens,
            step_tokens_max=self._timing.step_tokens_max,
            performance=self._timing.performance,
            holds=worker.holdings.__contains__,
            reachable=frozenset((GATEWAY,)),
            peer_count=self._setup.worker_count,
        )

    # -- fleet ------------------------------------------------------------------------------------

    def _join(self) -> None:
        worker = PrefillWorker(f"w{self._joined_count}", self._timing)
        self._joined_count += 1
        self._workers.append(worker)
        for router in self.routers:
            router.joined(worker)

    def _churn(self) -> None:
        """Let the oldest worker leave when it has done what it claimed, and an empty one join."""
        worker = self._workers.pop(0)
        worker.draining = True
        self._past_hit_tokens += worker.engine.hit_tokens
        for router in self.routers:
            router.left(worker)
        self._join()
        self._clock.after(CHURN_S, self._churn)
