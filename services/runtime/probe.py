"""What a process answers about itself, for those who watch over it: metrics, life, readiness.

Comes in: questions over HTTP, each in a thread of its own. Goes out: `GET /metrics`; `GET /health/live`,
200 when the event loop takes a turn within `TURN_S`; `GET /health/ready`, 200 once the process serves.
Invariant: no answer waits for the loop longer than `TURN_S`, so that a stuck loop is told and not shared.
Not here: the gateway, whose HTTP port answers the same questions; who asks (`services.cluster.supervisor`).
"""

import asyncio
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

from services.domain.errors import ConfigurationInvalid
from services.runtime.metrics import Meters
from services.runtime.thread_server import ThreadServer

TURN_S = 2.0
"""Longest wait for one turn of the event loop; seconds. A healthy one takes milliseconds."""
QUESTION_TIMEOUT_S = 5.0
"""Longest wait for a question to be read; seconds."""

LIVE_PATH = "/health/live"
READY_PATH = "/health/ready"
METRICS_PATH = "/metrics"

_TEXT = "text/plain; charset=utf-8"
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus text format
Answer = tuple[HTTPStatus, bytes, str]


class Probe:
    """The port for questions about this process; made on the event loop that it watches."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._loop = asyncio.get_running_loop()
        self._server: ThreadServer | None = None
        self.ready = False
        """Whether the process serves; set by the process itself."""

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
                key="metrics_port", message=f"metrics_port: cannot listen on {host}:{port}: {error.strerror}"
            ) from None
        self._server = server
        threading.Thread(target=server.serve_forever, name="probe", daemon=True).start()
        return server.server_port

    def close(self) -> None:
        """Stop answering; idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def answer(self, path: str) -> Answer:
        """Answer one question; called in any thread but the loop's."""
        if path == METRICS_PATH:
            return HTTPStatus.OK, self._meters.render(), _EXPOSITION
        if path == LIVE_PATH:
            return _say(self._turns(), "live", f"the event loop took no turn within {TURN_S:g} s")
        if path == READY_PATH:
            return _say(self.ready, "ready", "not ready")
        return HTTPStatus.NOT_FOUND, b"not found", _TEXT

    def _turns(self) -> bool:
        turned = threading.Event()
        try:
            self._loop.call_soon_threadsafe(turned.set)
        except RuntimeError:  # the loop is closed: the process is about to end
            return False
        return turned.wait(TURN_S)


def _say(holds: bool, word: str, otherwise: str) -> Answer:
    status = HTTPStatus.OK if holds else HTTPStatus.SERVICE_UNAVAILABLE
    return status, (word if holds else otherwise).encode(), _TEXT


def _handler(probe: Probe) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = QUESTION_TIMEOUT_S

        def do_GET(self) -> None:
            status, body, media_type = probe.answer(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the parent's own name
            """Say nothing: a question every second is no event."""

    return Handler
