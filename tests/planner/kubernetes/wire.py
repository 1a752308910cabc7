"""What lies between the planner and an API server in a test: a log of requests, and faults.

Comes in: requests of an httpx client. Goes out: answers of a server in memory. Invariant: without faults
nothing is changed on the way.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import httpx

from tests.planner.kubernetes.api_state import ApiState, Json


@dataclass(frozen=True)
class Asked:
    """One request as it was sent."""

    method: str
    path: str
    query: dict[str, str]
    token: str
    body: Json | None

    @property
    def is_watch(self) -> bool:
        """Tell whether it opens a watch."""
        return "watch" in self.query


class _Lines(httpx.AsyncByteStream):
    """Events of a watch as they come; fails when the wire is cut, ends when the watch does."""

    def __init__(self, state: ApiState, asked: Asked, wire: "Wire", silence_s: float | None) -> None:
        self._state, self._asked, self._wire, self._silence_s = state, asked, wire, silence_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        lines: asyncio.Queue[Json] = asyncio.Queue()
        watching = self._state.watch(self._asked.path, self._asked.query, lines.put_nowait)
        try:
            async with asyncio.timeout(float(self._asked.query["timeoutSeconds"])):
                while True:
                    yield json.dumps(await self._next(lines)).encode() + b"\n"
        except TimeoutError:
            return
        finally:
            if watching in self._state.watches:
                self._state.watches.remove(watching)

    async def _next(self, lines: "asyncio.Queue[Json]") -> Json:
        line, cut = asyncio.ensure_future(lines.get()), asyncio.ensure_future(self._wire.was_cut.wait())
        try:
            waits = (line, cut)
            await asyncio.wait(waits, timeout=self._silence_s, return_when=asyncio.FIRST_COMPLETED)
            if cut.done():
                raise httpx.ReadError("cut")
            if not line.done():
                raise httpx.ReadTimeout("silence")
            return line.result()
        finally:
            line.cancel()
            cut.cancel()


class Wire(httpx.AsyncBaseTransport):
    """Carries requests to a server in memory."""

    def __init__(self, state: ApiState) -> None:
        """Lead to a server.

        Args:
            state: the server.
        """
        self.state = state
        self.asked: list[Asked] = []
        self.faults: list[tuple[int, dict[str, str]] | Exception] = []
        """Answers to the next requests, instead of the server's."""
        self.is_down = False
        """Whether nothing gets through."""
        self.before: Callable[[Asked], Awaitable[None]] | None = None
        """Called before a request reaches the server."""
        self.was_cut = asyncio.Event()

    @property
    def writes(self) -> list[tuple[str, int]]:
        """Sizes that were asked for, by the last part of the workload's path."""
        return [
            (asked.path.split("/")[-2], asked.body["spec"]["replicas"])
            for asked in self.asked
            if asked.method == "PUT" and asked.body is not None
        ]

    def cut(self) -> None:
        """Break all open watches."""
        self.was_cut.set()
        self.was_cut = asyncio.Event()

    def client(self) -> httpx.AsyncClient:
        """Make a client whose requests go this way."""
        return httpx.AsyncClient(transport=self, base_url="http://api")

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry one request."""
        asked = Asked(
            request.method,
            request.url.path.strip("/"),
            dict(request.url.params),
            request.headers.get("Authorization", ""),
            json.loads(request.content) if request.content else None,
        )
        self.asked.append(asked)
        if self.before is not None:
            await self.before(asked)
        if self.is_down:
            raise httpx.ConnectError("down")
        if self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, Exception):
                raise fault
            return httpx.Response(fault[0], headers=fault[1], json={"kind": "Status", "message": "a fault"})
        if asked.is_watch:
            silence_s = request.extensions["timeout"]["read"]
            return httpx.Response(200, stream=_Lines(self.state, asked, self, silence_s))
        answer = self.state.ask(asked.method, asked.path, asked.token, asked.query, asked.body)
        return httpx.Response(answer.status, json=answer.body)
