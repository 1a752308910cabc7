"""The launcher over HTTP: `GET /pools` says how things stand, `PUT /pools` orders.

Comes in: orders as JSON (`services.domain.pools.LaunchOrder`). Goes out: the state after it
(`services.domain.pools.Launched`), 409 when it was made for another state, 400 when it cannot be.
Invariant: orders are carried out one after another on the event loop; no answer waits for it longer than
`TURN_S`. Not here: what an order does (`services.cluster.launcher`).
"""

import asyncio
import threading
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as NoTurn
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

import msgspec

from services.cluster.launcher import Launcher
from services.cluster.roster import OrderOutdated, OrderRefused
from services.domain.errors import ConfigurationInvalid
from services.domain.pools import LaunchOrder
from services.runtime.thread_server import ThreadServer

PATH = "/pools"
TURN_S = 5.0
"""Longest wait for a turn of the event loop; seconds."""
BODY_BYTES_MAX = 64 * 1024
"""Of an order; a role for each of a thousand workers fits."""
Answer = tuple[HTTPStatus, bytes]


class LauncherPort:
    """The port for orders; made on the launcher's event loop."""

    def __init__(self, launcher: Launcher) -> None:
        """Prepare; nothing listens yet."""
        self._launcher = launcher
        self._loop = asyncio.get_running_loop()
        self._server: ThreadServer | None = None

    def serve(self, host: str, port: int) -> int:
        """Begin to answer; returns the port.

        Args:
            host: address to listen on.
            port: 0 chooses a free one.

        Raises:
            ConfigurationInvalid: the port is taken.
        """
        try:
            server = ThreadServer((host, port), _handler(self))
        except OSError as error:
            raise ConfigurationInvalid(
                key="launcher.port",
                message=f"launcher.port: cannot listen on {host}:{port}: {error.strerror}; 0 takes any",
            ) from None
        self._server = server
        threading.Thread(target=server.serve_forever, name="launcher", daemon=True).start()
        return server.server_port

    def close(self) -> None:
        """Stop answering; idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def answer(self, body: bytes | None) -> Answer:
        """Answer a question, or carry an order out; called in any thread but the loop's."""
        turn = asyncio.run_coroutine_threadsafe(self._answer(body), self._loop)
        try:
            return turn.result(TURN_S)
        except (NoTurn, CancelledError):
            turn.cancel()
            return HTTPStatus.SERVICE_UNAVAILABLE, b"the launcher does not get to it"

    async def _answer(self, body: bytes | None) -> Answer:
        try:
            if body is None:
                launched = self._launcher.report()
            else:
                launched = self._launcher.obey(msgspec.json.decode(body, type=LaunchOrder))
        except msgspec.MsgspecError as error:
            return HTTPStatus.BAD_REQUEST, f"no order: {error}".encode()
        except OrderOutdated as error:
            return HTTPStatus.CONFLICT, str(error).encode()
        except OrderRefused as error:
            return HTTPStatus.BAD_REQUEST, str(error).encode()
        return HTTPStatus.OK, msgspec.json.encode(launched)


def _handler(port: LauncherPort) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = TURN_S

        def do_GET(self) -> None:
            if self.path == PATH:
                self._say(*port.answer(None))
            else:
                self._say(HTTPStatus.NOT_FOUND, b"not found")

        def do_PUT(self) -> None:
            length = self.headers.get("Content-Length", "")
            if self.path != PATH:
                self._say(HTTPStatus.NOT_FOUND, b"not found")
            elif not length.isdigit() or int(length) > BODY_BYTES_MAX:
                self._say(HTTPStatus.BAD_REQUEST, b"an order has a length, and is short")
            else:
                self._say(*port.answer(self.rfile.read(int(length))))

        def _say(self, status: HTTPStatus, body: bytes) -> None:
            self.send_response(status)
            kind = "application/json" if status is HTTPStatus.OK else "text/plain; charset=utf-8"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the parent's own name
            """Say nothing: whoever orders says it."""

    return Handler
