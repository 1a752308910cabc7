"""Steady traffic of streamed requests, each held against the answer of an undisturbed run.

Comes in: gateways, questions. Goes out: one verdict per request: exact, wrong, or failed.
Invariant: every request that was begun is judged; its stream must end in exactly one terminal event.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc
import httpx

from tests.live.cluster import DEADLINE_S, RunningCluster
from tests.live.questions import AUTO, REMOTE, Truth, plain_channel, stream_grpc, stream_http

TURN = 20
"""Questions of a client at one gateway before it goes to the next."""
REMOTE_EVERY = 2
"""Of so many requests one asks for remote prefill: a light load alone hardly ever gives a reason for it."""
CACHES = 5
"""Cache salts in turn: the same prompt is sometimes cached and sometimes not."""


@dataclass(slots=True)
class Verdicts:
    """What became of the requests of one stretch of traffic."""

    exact: int = 0
    failed: list[str] = field(default_factory=list)
    excused: int = 0
    """Failed at a gateway that was killed meanwhile: nobody else has the client's connection."""

    @property
    def ended(self) -> int:
        """Requests that are over."""
        return self.exact + len(self.failed) + self.excused


class Traffic:
    """Clients that ask one question after another until they are told to stop."""

    def __init__(
        self, gateways: Sequence[RunningCluster], truth: Truth, *, salt: str, pause_s: float = 0.0
    ) -> None:
        """Put it together; nobody asks yet.

        Args:
            gateways: that are asked.
            truth: what is asked, and what must come.
            salt: of the caches.
            pause_s: of a client between an answer and its next question, seconds.
        """
        self._gateways = gateways
        self._truth = truth
        self._salt = salt
        self._pause_s = pause_s
        self._numbers = itertools.count()
        self._questions = itertools.cycle(truth)
        self._stopped = asyncio.Event()
        self._change = asyncio.Condition()
        self._killed: set[int] = set()
        self._still: set[int] = set()
        self.verdicts = Verdicts()

    def excuse(self, index: int) -> None:
        """Say that a gateway is about to be killed: what it holds may fail, and its clients go elsewhere."""
        self._killed.add(index)
        assert len(self._killed) < len(self._gateways), "nobody is left to ask"

    def leave_alone(self, index: int) -> None:
        """Say that a gateway is about to stand still: clients that are there wait, no others go there."""
        self._still.add(index)

    def welcome(self, index: int) -> None:
        """Say that a gateway is back: clients may go to it again."""
        self._killed.discard(index)
        self._still.discard(index)

    async def client(self, index: int) -> None:
        """Ask one question after another, some at each gateway in turn."""
        while not self._stopped.is_set():
            index = (index + 1) % len(self._gateways)
            if index in self._killed | self._still:
                continue
            gateway = self._gateways[index]
            async with plain_channel(gateway) as channel, gateway.http() as http:
                for _ in range(TURN):
                    if not await self._ask(index, channel, http) or self._stopped.is_set():
                        break
                    await self._pause()

    async def _pause(self) -> None:
        if self._pause_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s):
                    await self._stopped.wait()

    async def _ask(self, index: int, channel: grpc.aio.Channel, http: httpx.AsyncClient) -> bool:
        """Ask over HTTP or gRPC in turn; False when the gateway was killed before the answer was whole."""
        number = next(self._numbers)
        question = next(self._questions)
        salt = f"{self._salt} {number % CACHES}"
        path = AUTO if number % REMOTE_EVERY else REMOTE
        if number // len(self._truth) % 2:
            answer = await stream_grpc(channel, question, salt, path)
        else:
            answer = await stream_http(http, question, salt, path)
        truth = self._truth[question]
        if answer.matches(truth):
            self.verdicts.exact += 1
        elif index in self._killed:
            self.verdicts.excused += 1
        else:
            name = (
                f"request {number} ({question.sampling}, {len(question.token_ids)} tokens, gateway {index})"
            )
            self.verdicts.failed.append(f"{name}: {answer} instead of {truth}")
        async with self._change:
            self._change.notify_all()
        return index not in self._killed

    async def more(self, count: int) -> None:
        """Wait until so many more requests are over."""
        goal = self.verdicts.ended + count
        async with asyncio.timeout(DEADLINE_S), self._change:
            await self._change.wait_for(lambda: self.verdicts.ended >= goal)

    def stop(self) -> None:
        """Begin no further request."""
        self._stopped.set()


@asynccontextmanager
async def traffic(
    gateways: Sequence[RunningCluster],
    truth: Truth,
    *,
    salt: str,
    clients: int,
    requests_min: int = 0,
    pause_s: float = 0.0,
) -> AsyncIterator[Traffic]:
    """Keep traffic up while the body runs; at the end all requests are over and all are exact.

    Args:
        gateways: clients are spread over them.
        truth: what is asked, and what must come.
        salt: of the caches.
        clients: that ask at the same time.
        requests_min: of which there must have been so many at the end.
        pause_s: of a client between an answer and its next question, seconds.
    """
    running = Traffic(gateways, truth, salt=salt, pause_s=pause_s)
    tasks = [asyncio.ensure_future(running.client(i % len(gateways))) for i in range(clients)]
    try:
        yield running
        await running.more(max(1, requests_min - running.verdicts.ended))
        running.stop()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    assert not running.verdicts.failed, "\n".join(running.verdicts.failed[:10])
