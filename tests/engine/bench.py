"""What an engine contract test works with: two started engines, everything they said, requests.

A `Bench` is one kind of engine; the contract suite asks it to run scenarios. Waits end with what an
engine says, or, for counters that nobody announces, with the next look at them; each has a deadline by
the loop's own clock, so that a simulated engine waits in no real time at all.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, TypeAlias

from services.domain.blocks import BlockHash, BlocksCleared, BlocksRemoved, BlocksStored, CacheScope, KvEvent
from services.domain.handoff import Ticket
from services.domain.ids import RequestId
from services.domain.integrity import KvChecked
from services.domain.request import InferenceRequest, Sampling
from services.domain.stream import Delta, FinishReason
from services.domain.worker import WorkerLoad
from services.engine.port import DecodeJob, Engine, EngineInfo, EngineStep, Prefilled, PrefillJob

LOOK_AGAIN_S = 0.02
"""Between two looks at counters that nobody announces."""


@dataclass
class Heard:
    """Everything one engine said, and whether it kept the order that the port promises."""

    steps: list[EngineStep] = field(default_factory=list)
    kv_events: list[KvEvent] = field(default_factory=list)
    kv_checks: list[KvChecked] = field(default_factory=list)
    deltas: dict[RequestId, list[Delta]] = field(default_factory=dict)
    prefilled: dict[RequestId, Prefilled] = field(default_factory=dict)
    readable: set[BlockHash] = field(default_factory=set)
    """Hashes that the KV events say can be read now."""
    violations: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def on_step(self, step: EngineStep) -> None:
        """Step sink."""
        self.steps.append(step)
        self.kv_checks.extend(step.kv_checks)
        if not (step.deltas or step.prefilled or step.kv_checks or step.pulled):
            self.violations.append("a step said nothing")
        named = [d.request_id for d in step.deltas] + [p.request_id for p in step.prefilled]
        if len(named) != len(set(named)):
            self.violations.append(f"a step named a request twice: {named}")
        for delta in step.deltas:
            self._check(delta)
            self.deltas.setdefault(delta.request_id, []).append(delta)
        for prefilled in step.prefilled:
            self._check(prefilled.first)
            if prefilled.request_id in self.prefilled:
                self.violations.append(f"{prefilled.request_id} was prefilled twice")
            if (prefilled.ticket is None) != (prefilled.first.finish is not None):
                self.violations.append(f"{prefilled.request_id}: a ticket goes with an open end only")
            self.prefilled[prefilled.request_id] = prefilled
        self.news.set()

    def on_kv_events(self, events: tuple[KvEvent, ...]) -> None:
        """KV sink."""
        self.kv_events.extend(events)
        for event in events:
            match event:
                case BlocksStored(hashes=hashes):
                    self.readable.update(hashes)
                case BlocksRemoved(hashes=hashes):
                    self.readable.difference_update(hashes)
                case BlocksCleared():
                    self.readable.clear()
        self.news.set()

    def final(self, request_id: RequestId) -> Delta | None:
        """The final delta of a job, if it ended."""
        if request_id in self.prefilled:
            return self.prefilled[request_id].first
        said = self.deltas.get(request_id)
        return said[-1] if said and said[-1].finish is not None else None

    def tokens(self, request_id: RequestId) -> tuple[int, ...]:
        """Output tokens of a decode job so far."""
        return tuple(t for d in self.deltas.get(request_id, ()) for t in d.token_ids)

    def _check(self, delta: Delta) -> None:
        name = delta.request_id
        earlier = self.deltas.get(name, [])
        if self.final(name) is not None:
            self.violations.append(f"{name}: something follows the final output")
        if not delta.token_ids and delta.finish is None:
            self.violations.append(f"{name}: a delta without tokens and without an end")
        if (delta.error is not None) != (delta.finish is FinishReason.ERROR):
            self.violations.append(f"{name}: {delta.finish} with error {delta.error!r}")
        if earlier and delta.cached_tokens is not None:
            self.violations.append(f"{name}: cached_tokens on a later delta")
        if (delta.cached_tokens is None) != (delta.local_prefill_s is None):
            self.violations.append(f"{name}: cached_tokens and local_prefill_s go together")


@dataclass
class Station:
    """One started engine."""

    engine: Engine
    info: EngineInfo
    heard: Heard
    deadline_s: float

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait for something that the engine says."""
        async with asyncio.timeout(self.deadline_s):
            while not happened():
                self.heard.news.clear()
                await self.heard.news.wait()

    async def until_load(self, reached: Callable[[WorkerLoad], bool], *, deadline_s: float = 0.0) -> None:
        """Wait for counters to show something: looked at with any news, and again and again without."""
        async with asyncio.timeout(deadline_s or self.deadline_s):
            while not reached(self.engine.load()):
                self.heard.news.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.heard.news.wait(), LOOK_AGAIN_S)

    async def until_empty(self) -> None:
        """Wait until nothing is held: blocks in = blocks out."""
        await self.until_load(lambda load: load == WorkerLoad())

    async def end_of(self, request_id: RequestId) -> Delta:
        """Wait for the final delta of a job."""
        await self.until(lambda: self.heard.final(request_id) is not None)
        final = self.heard.final(request_id)
        assert final is not None
        return final

    async def spoken(self, request_id: RequestId, tokens: int) -> None:
        """Wait until a decode job has written so many tokens."""
        await self.until(lambda: len(self.heard.tokens(request_id)) >= tokens)

    async def prefill(self, request: InferenceRequest) -> tuple[Ticket, Delta]:
        """Run a prefill job that must give a ticket."""
        self.engine.submit(PrefillJob(request=request))
        await self.end_of(request.request_id)
        done = self.heard.prefilled[request.request_id]
        assert done.ticket is not None, done
        return done.ticket, done.first

    async def decode(
        self, request: InferenceRequest, *, ticket: Ticket | None = None, emitted: Sequence[int] = ()
    ) -> tuple[int, ...]:
        """Run a decode job to its end; returns the tokens written, the emitted ones not repeated."""
        self.engine.submit(DecodeJob(request=request, ticket=ticket, emitted_token_ids=tuple(emitted)))
        final = await self.end_of(request.request_id)
        assert final.error is None, final
        return self.heard.tokens(request.request_id)


@dataclass
class Pair:
    """Two engines that may hand over to each other."""

    prefill: Station
    decode: Station

    async def disaggregated(self, request: InferenceRequest, *, early: bool) -> tuple[int, ...]:
        """Prefill on one engine, decode on the other; early: decode is given the first token."""
        ticket, first = await self.prefill.prefill(request)
        emitted = first.token_ids if early else ()
        return emitted + await self.decode.decode(request, ticket=ticket, emitted=emitted)

    async def until_empty(self) -> None:
        """Wait until neither engine holds anything."""
        await self.prefill.until_empty()
        await self.decode.until_empty()


Scenario: TypeAlias = Callable[[Pair], Coroutine[Any, Any, None]]


class Bench(ABC):
    """One kind of engine under the contract."""

    scope = CacheScope(model="contract")
    token_ids = range(300, 4000)
    """Prompts are drawn from these."""

    def __init__(self) -> None:
        self._requests = 0
        self._random = Random(20260101)

    @abstractmethod
    def run(self, scenario: Scenario) -> None:
        """Run a scenario on engines that hold nothing; their caches may be warm."""

    @abstractmethod
    def run_fresh(self, scenario: Scenario) -> None:
        """Run a scenario on engines that it may stop or kill."""

    @abstractmethod
    async def kill(self, engine: Engine) -> None:
        """Let an engine die as if its process had been killed."""

    @abstractmethod
    async def corrupt_next_pull(self, engine: Engine, *, place: int = -1) -> None:
        """Change a block of an engine's next pull on its way.

        Args:
            engine: that will pull.
            place: which of the moved blocks: 0 is the first, -1 the last.
        """

    def prompt(self, tokens: int) -> tuple[int, ...]:
        """Draw a prompt that shares no block with another."""
        return tuple(self._random.choices(self.token_ids, k=tokens))

    def request(
        self,
        prompt: int | Sequence[int],
        *,
        sampling: Sampling | None = None,
        max_tokens: int = 8,
        salt: str = "",
    ) -> InferenceRequest:
        """Make a request with an id of its own; greedy, and running to `max_tokens`, unless told."""
        self._requests += 1
        return InferenceRequest(
            request_id=RequestId(f"request-{self._requests}"),
            scope=replace(self.scope, salt=salt),
            prompt_token_ids=self.prompt(prompt) if isinstance(prompt, int) else tuple(prompt),
            sampling=sampling or greedy(max_tokens),
        )


def greedy(max_tokens: int, *, stop: Sequence[int] = (), min_tokens: int = 0) -> Sampling:
    """Greedy sampling that only ends at `max_tokens` or a given stop token."""
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=0.0,
        ignore_eos=True,
        stop_token_ids=tuple(stop),
    )


async def attend(stations: Pair, scenario: Scenario) -> None:
    """Run a scenario and then judge what was said meanwhile."""
    await scenario(stations)
    for station in (stations.prefill, stations.decode):
        assert station.heard.violations == []


async def started(engine: Engine, deadline_s: float) -> Station:
    """Start an engine and listen to it."""
    heard = Heard()
    info = await engine.start(heard.on_step, heard.on_kv_events)
    return Station(engine=engine, info=info, heard=heard, deadline_s=deadline_s)
