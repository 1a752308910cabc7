"""One HTTP exchange over ASGI: headers and body in, one answer out.

Comes in: ASGI scope, receive and send. Goes out: a body within its bounds, an answer, or the news
that the client left. Invariant: at most one answer begins; a body is never held beyond its bounds.
Not here: what is answered.
"""

import asyncio
import time
from collections.abc import Sequence
from email.utils import formatdate
from types import TracebackType

import msgspec
from starlette.types import Receive, Scope, Send

from services.domain.errors import BodyTooLarge, ClientGone, ServingError
from services.gateway.edge.admission import BodyBudget
from services.gateway.edge.error_table import render_body, render_error, retry_after_s, row_of

Headers = Sequence[tuple[bytes, bytes]]

JSON = b"application/json"


class HttpProblem(Exception):
    """Something wrong that only HTTP knows: a path, a method, a type of content, a slow body."""

    def __init__(self, status: int, code: str, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = tuple(headers)


class _Date:
    """The Date header, made once a second (RFC 9110, 6.6.1)."""

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def now(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True).encode()
        return self._text


_DATE = _Date()


class Exchange:
    """A request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self.request_id: str | None = None
        """Told in the answer's `x-request-id` once known."""
        self.started = False
        """Whether an answer began."""
        self._body_read = False

    def header(self, name: bytes) -> bytes | None:
        """First value of a request header, by its lower-case name."""
        return next((v for n, v in self.scope["headers"] if n == name), None)

    def require_json(self) -> None:
        """Refuse a body that says to be something else than JSON.

        Raises:
            HttpProblem: 415.
        """
        kind = self.header(b"content-type")
        if kind is not None and kind.split(b";", 1)[0].strip().lower() != JSON:
            raise HttpProblem(415, "unsupported_media_type", "the body must be application/json")

    async def read_body(self, *, bytes_max: int, timeout_s: float, budget: BodyBudget) -> bytes:
        """Read the whole body.

        Raises:
            BodyTooLarge: it says to be, or is, larger than bytes_max.
            HttpProblem: 408, it did not arrive in time.
            ClientGone: the client left before its end.
            Saturated: other bodies hold too much.
        """
        said = self.header(b"content-length")
        if said is not None and said.isdigit() and int(said) > bytes_max:
            raise _too_large(bytes_max)
        parts: list[bytes] = []
        held = 0
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone(message="the client left before the end of its request")
                    part: bytes = message.get("body", b"")
                    if held + len(part) > bytes_max:
                        raise _too_large(bytes_max)
                    budget.take(len(part))
                    held += len(part)
                    parts.append(part)
                    if not message.get("more_body", False):
                        self._body_read = True
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            raise HttpProblem(
                408, "request_timeout", f"the body did not arrive within {timeout_s:g} s"
            ) from None
        finally:
            budget.give_back(held)

    async def gone(self) -> None:
        """Return when the client has left; to be waited for only once the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def reply(self, status: int, body: bytes, *, kind: bytes = JSON, headers: Headers = ()) -> None:
        """Send a whole answer."""
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, kind, [length, *headers])
        await self._send({"type": "http.response.body", "body": body})

    async def reply_struct(self, value: object, status: int = 200) -> None:
        """Send a value as JSON."""
        await self.reply(status, msgspec.json.encode(value))

    async def reply_error(self, error: ServingError) -> None:
        """Send an error of the tree, with `Retry-After` where it promises one."""
        after = retry_after_s(error)
        headers = [] if after is None else [(b"retry-after", str(after).encode())]
        await self.reply(row_of(error).http_status, render_error(error), headers=headers)

    async def reply_problem(self, problem: HttpProblem) -> None:
        """Send what only HTTP knows."""
        body = render_body(
            message=problem.message, kind="invalid_request_error", param=None, code=problem.code
        )
        await self.reply(problem.status, body, headers=problem.headers)

    async def open_events(self) -> None:
        """Begin a stream of server-sent events."""
        uncached = (b"cache-control", b"no-cache")
        unbuffered = (b"x-accel-buffering", b"no")  # read by nginx, which else gathers events
        await self._start(200, b"text/event-stream; charset=utf-8", [uncached, unbuffered])

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send events; waits while the client is behind."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def _start(self, status: int, kind: bytes, headers: Headers) -> None:
        self.started = True
        all_headers = [(b"content-type", kind), (b"date", _DATE.now()), *headers]
        if self.request_id is not None:
            all_headers.append((b"x-request-id", self.request_id.encode("latin-1")))
        await self._send({"type": "http.response.start", "status": status, "headers": all_headers})


def _too_large(bytes_max: int) -> BodyTooLarge:
    return BodyTooLarge(message=f"the body is larger than {bytes_max} bytes", limit_bytes=bytes_max)


class WhileClientStays:
    """A context that is left with `ClientGone` as soon as the client leaves."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "an exchange is served by a task"  # noqa: S101 - asyncio's own promise
        self._task = task
        self._watch = asyncio.get_running_loop().create_task(self._exchange.gone())
        self._watch.add_done_callback(self._left)

    def _left(self, watch: "asyncio.Task[None]") -> None:
        if not watch.cancelled():
            self._gone = True
            self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.remove_done_callback(self._left)
        self._watch.cancel()
        if self._gone and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise ClientGone(message="the client left") from None
