"""uvicorn's HTTP/1.1 protocol with bounds: heads, waiting, writing and connections.

Comes in: bytes of a socket. Goes out: ASGI calls. Invariant: no connection waits for its client
without a timer, and no head grows without a bound.

Which timer runs when (uvicorn itself keeps the one for idle kept-alive connections):
- head: from the connection or the first byte of a request to the end of its headers -> 408;
- linger: from an answer given before the body's end until that end -> closed;
- stall: while the client does not read what is there to be read -> aborted.
Not here: the time a body may take (`exchange`), since only the application knows that it wants one.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from services.gateway.edge.error_table import render_body

_LINGER_S = 5.0
"""After an early answer (413, say) a client may go on sending for so long; closing at once would
reset the connection and could take the answer with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionBounds:
    """What one connection may take."""

    head_bytes_max: int
    head_timeout_s: float
    stalled_write_timeout_s: float
    connections_max: int


class _Timer(Protocol):
    def cancel(self) -> None: ...


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection."""

    bounds: ConnectionBounds
    """Set by `with_bounds` on a subclass, since uvicorn makes the objects."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.access_log = False  # uvicorn would write a line per request as soon as the root logs
        self._boundaries_count = 0
        """Ends of heads and of bodies so far."""
        self._head_bytes = 0
        """Bytes of a head that has not ended."""
        self._in_body = False
        self._wait: _Timer | None = None
        self._stall: _Timer | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """Begin to wait for a head, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > self.bounds.connections_max:
            self._refuse(503, "saturated", "too many connections; try again later")
            return
        self._wait = self.loop.call_later(self.bounds.head_timeout_s, self._head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """End all timers."""
        self._end_wait()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, with a bound on the head."""
        if self.transport.is_closing():
            return
        boundaries_before = self._boundaries_count
        super().data_received(data)
        if self._in_body or self.transport.is_closing():
            return
        if self._boundaries_count != boundaries_before:
            self._head_bytes = 0  # what follows the boundary came in this one read: bounded by it
            return
        self._head_bytes += len(data)
        if self._head_bytes > self.bounds.head_bytes_max:
            self._refuse(431, "head_too_large", "the request line and headers are too large")
        elif self._wait is None:
            self._wait = self.loop.call_later(self.bounds.head_timeout_s, self._head_late)

    def on_headers_complete(self) -> None:
        """End a head."""
        self._end_wait()
        self._boundaries_count += 1
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a body."""
        self._end_wait()
        self._boundaries_count += 1
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Give a body that nobody reads any more a last while."""
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            self._end_wait()
            self._wait = self.loop.call_later(_LINGER_S, self.transport.close)

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read."""
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(self.bounds.stalled_write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting: the client reads again."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP."""
        self._refuse(400, "invalid_http", msg)

    def _head_late(self) -> None:
        self._wait = None
        if self._head_bytes == 0:
            self.transport.close()
        else:
            self._refuse(408, "request_timeout", "the headers did not arrive in time")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer without the application, and close; within another answer only close."""
        self._end_wait()
        if self._boundaries_count and not self.cycle.response_complete:
            self.transport.close()
            return
        kind = "server_error" if status >= 500 else "invalid_request_error"
        body = render_body(message=message, kind=kind, param=None, code=code)
        head = (
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _end_wait(self) -> None:
        if self._wait is not None:
            self._wait.cancel()
            self._wait = None


_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


def with_bounds(bounds: ConnectionBounds) -> type[BoundedHttpProtocol]:
    """Make a protocol class that keeps these bounds."""
    return type("BoundedHttpProtocol", (BoundedHttpProtocol,), {"bounds": bounds})
