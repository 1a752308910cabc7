"""The clients of a simulated cluster: they call, read, try again, lose patience, and note what they got.

Comes in: arrivals. Goes out: an outcome each. Invariant: a client knows only what its gateway told it.
Not here: who is right (`services.simulation.invariants`).
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field

from services.cluster.inprocess import MODEL, InProcessCluster
from services.domain.blocks import CacheScope
from services.domain.errors import Rejected, ServingError
from services.domain.ids import RequestId
from services.domain.placement import PathPreference
from services.domain.request import InferenceRequest, Sampling
from services.domain.stream import Delta, FinishReason
from services.engine.simulated.oracle import expected_tokens
from services.engine.simulated.settings import SimulatedSettings
from services.gateway.conductor import Conductor
from services.gateway.port import ServeOptions
from services.runtime.tasks import Nursery
from services.simulation.observation import ClientEnd, Outcome
from services.simulation.scenario import Arrival
from services.simulation.transcript import Trace

TOKEN_IDS = 3000
"""Prompts are made of so many different tokens."""

RETRY_S = 0.25
"""Between two tries of a client that was refused or found no gateway."""

JSON_SCHEMA = '{"type":"object"}'


def request_of(arrival: Arrival, number: int) -> InferenceRequest:
    """Make the request of a client's try."""
    first = arrival.first_token_id
    return InferenceRequest(
        request_id=RequestId(f"{arrival.name}~{number}"),
        scope=CacheScope(model=MODEL),
        prompt_token_ids=tuple(261 + (first + i) % TOKEN_IDS for i in range(arrival.prompt_tokens)),
        sampling=Sampling(
            max_tokens=arrival.output_tokens_max,
            temperature=0.0 if arrival.seed is None else 1.0,
            seed=arrival.seed,
            logprobs_count=1 if arrival.logprobs else None,
            json_schema=JSON_SCHEMA if arrival.json_schema else None,
        ),
        priority=arrival.priority,
    )


@dataclass(slots=True, eq=False)
class _Call:
    arrival: Arrival
    calm: bool
    began_s: float
    tries: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    error: ServingError | None = None
    terminal_count: int = 0
    after_terminal_count: int = 0
    end: ClientEnd | None = None
    ended_s: float = 0.0

    def take(self, delta: Delta) -> None:
        if self.terminal_count:
            self.after_terminal_count += 1
        self.tokens.extend(delta.token_ids)
        self.logprobs.extend(entry.token_id for entry in delta.logprobs)
        if delta.finish is not None:
            self.terminal_count += 1
            self.finish, self.error = delta.finish, delta.error

    @property
    def wants_to_leave(self) -> bool:
        most = self.arrival.leaves_after_tokens
        return most is not None and len(self.tokens) >= most and not self.terminal_count


class Clients:
    """All clients of one run."""

    def __init__(self, cluster: InProcessCluster, engine: SimulatedSettings, trace: Trace) -> None:
        self._cluster = cluster
        self._engine = engine
        self._trace = trace
        self._calls: dict[str, _Call] = {}
        self._readers: dict[int, set[asyncio.Task[None]]] = {}
        self._nursery = Nursery("simulated clients")

    def send(self, arrival: Arrival, *, calm: bool = False) -> None:
        """Let a client call when its time comes, counted from now."""
        self._nursery.start(self._client(arrival, calm=calm), arrival.name)

    def idle(self) -> bool:
        """Whether every call has ended."""
        return not len(self._nursery)

    async def wait(self, timeout_s: float) -> None:
        """Wait for all calls to end; those that do not in time are hung."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.idle():  # noqa: ASYNC110  # on a virtual clock a look costs nothing
                    await asyncio.sleep(RETRY_S)
        except TimeoutError:
            for call in self._calls.values():
                if call.end is None:
                    self._ended(call, ClientEnd.HUNG)
        await self._nursery.close()

    async def cut_off(self, gateway: int) -> None:
        """Break the connections of a gateway's clients."""
        readers = self._readers.pop(gateway, set())
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    def ended_s(self, name: str) -> float | None:
        """When a client's call ended; None while it lasts."""
        call = self._calls.get(name)
        return None if call is None or call.end is None else call.ended_s

    def outcomes(self) -> tuple[Outcome, ...]:
        """What became of every call, by name."""
        return tuple(self._outcome(call) for _, call in sorted(self._calls.items()))

    async def _client(self, arrival: Arrival, *, calm: bool) -> None:
        await asyncio.sleep(arrival.at_s)
        began_s = self._now_s()
        call = self._calls[arrival.name] = _Call(arrival, calm, began_s)
        while call.end is None:
            left_s = began_s + arrival.deadline_s - self._now_s()
            index = self._gateway(arrival.gateway)
            if index is None and left_s <= 0:
                self._ended(call, ClientEnd.UNSERVED)
            elif index is None:
                await asyncio.sleep(min(RETRY_S, left_s))
            else:
                await self._try(call, index, max(left_s, 0.001))

    def _gateway(self, wanted: int) -> int | None:
        """The gateway that a load balancer would give: one that says it is ready, the wanted one if it is."""
        up = sorted(self._cluster.gateways.items())
        ready = [index for index, gateway in up if gateway.ready() is None]
        return wanted if wanted in ready else next(iter(ready), None)

    async def _try(self, call: _Call, index: int, deadline_s: float) -> None:
        call.tries += 1
        number = call.tries
        self._note(call, f"calls gateway-{index}")
        reading = asyncio.ensure_future(self._read(call, self._cluster.gateways[index], number, deadline_s))
        readers = self._readers.setdefault(index, set())
        readers.add(reading)
        await asyncio.wait({reading})
        readers.discard(reading)
        if reading.cancelled():
            self._ended(call, ClientEnd.CUT_OFF)
            return
        try:
            reading.result()
        except Rejected as error:
            left_s = call.began_s + call.arrival.deadline_s - self._now_s()
            if error.retryable and left_s > RETRY_S:
                self._note(call, f"is refused: {error}")
                await asyncio.sleep(RETRY_S)
                return
            self._fail(call, error)
        except ServingError as error:
            self._fail(call, error)

    async def _read(self, call: _Call, gateway: Conductor, number: int, deadline_s: float) -> None:
        arrival = call.arrival
        options = ServeOptions(deadline_s=deadline_s, preference=PathPreference(arrival.path))
        stream = gateway.generate(request_of(arrival, number), options)
        try:
            async with aclosing(stream), asyncio.timeout(arrival.leaves_after_s):
                async for delta in stream:
                    call.take(delta)
                    if call.wants_to_leave:
                        self._ended(call, ClientEnd.LEFT)
                        return
        except TimeoutError:
            self._ended(call, ClientEnd.LEFT)
            return
        if not call.terminal_count:
            self._ended(call, ClientEnd.SILENT)
        elif call.error is None:
            self._ended(call, ClientEnd.DONE)
        else:
            self._ended(call, ClientEnd.FAILED)

    def _fail(self, call: _Call, error: ServingError) -> None:
        call.terminal_count += 1
        call.error = error
        self._ended(call, ClientEnd.FAILED)

    def _ended(self, call: _Call, end: ClientEnd) -> None:
        if call.end is None:
            call.end, call.ended_s = end, self._now_s()
            why = "" if call.error is None else f": {call.error}"
            self._note(call, f"is {end} with {len(call.tokens)} tokens{why}")

    def _outcome(self, call: _Call) -> Outcome:
        truth = expected_tokens(
            request_of(call.arrival, 1),
            vocabulary=self._engine.vocabulary(),
            context_tokens_max=self._engine.context_tokens_max,
        )
        return Outcome(
            arrival=call.arrival,
            calm=call.calm,
            end=call.end or ClientEnd.HUNG,
            tokens=tuple(call.tokens),
            logprobs=tuple(call.logprobs),
            truth=truth.token_ids,
            finish=call.finish,
            error=call.error,
            terminal_count=call.terminal_count,
            after_terminal_count=call.after_terminal_count,
            tries=call.tries,
            began_s=call.began_s,
            ended_s=call.ended_s,
        )

    def _note(self, call: _Call, what: str) -> None:
        name = call.arrival.name
        self._trace.note(self._now_s(), f"client {name}", what, (name,))

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
