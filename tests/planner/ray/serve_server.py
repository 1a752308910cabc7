"""Serve's REST API in a thread: applications with one deployment each, a token, and faults.

Answers are those that Ray 2.60 gave: codes, bodies and the parts of `GET /api/serve/applications/` that a
client may read. A new size is taken at once, as Serve does; replicas follow when a test lets them.
"""

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "of-the-cluster"
_SCALE = re.compile(r"/api/v1/applications/(?P<application>[^/]+)/deployments/(?P<deployment>[^/]+)/scale")


def _nothing() -> None:
    """Nobody interferes."""


@dataclass
class Deployed:
    """One application and its deployment."""

    deployment: str
    size: int
    states: list[str]
    is_open: bool = True
    """`external_scaler_enabled`."""

    def rendered(self, name: str) -> dict[str, object]:
        """What Serve tells of it."""
        replicas = [
            {"replica_id": f"r{i}", "state": state, "node_ip": "10.0.0.5", "start_time_s": 1795285610.0}
            for i, state in enumerate(self.states)
        ]
        return {
            "name": name,
            "route_prefix": None,
            "status": "RUNNING",
            "message": "",
            "source": "declarative",
            "external_scaler_enabled": self.is_open,
            "deployments": {
                self.deployment: {
                    "name": self.deployment,
                    "status": "HEALTHY",
                    "target_num_replicas": self.size,
                    "replicas": replicas,
                }
            },
        }


class ServeServer:
    """Holds applications by name; `faults` are answered first, one per request."""

    def __init__(self, applications: dict[str, Deployed]) -> None:
        """Serve on a free port of loopback."""
        self.applications = applications
        self.faults: list[tuple[int, dict[str, str]]] = []
        self.asked: list[tuple[str, str]] = []
        self.writes: list[tuple[str, int]] = []
        self.on_read: Callable[[], None] = _nothing
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self, None)

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                server.answer(self, json.loads(self.rfile.read(length)))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the parent's own name
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, int] | None) -> None:
        """Answer one request."""
        self.asked.append((handler.command, handler.path))
        if self.faults:
            status, headers = self.faults.pop(0)
            _send(handler, status, {"error": "Internal Server Error"}, headers)
        elif handler.headers.get("Authorization") != f"Bearer {TOKEN}":
            _send(handler, 401, "Unauthorized: Missing authentication token")
        elif body is None:
            rendered = {name: deployed.rendered(name) for name, deployed in self.applications.items()}
            _send(handler, 200, {"proxy_location": "Disabled", "proxies": {}, "applications": rendered})
            self.on_read()
        else:
            _send(handler, *self._scale(handler.path, body["target_num_replicas"]))

    def _scale(self, path: str, count: int) -> tuple[int, object]:
        match = _SCALE.fullmatch(path)
        found = self.applications.get(match["application"]) if match else None
        if match is None or found is None or found.deployment != match["deployment"]:
            return 404, {"error": "Application or Deployment not found"}
        if not found.is_open:
            return 412, {"error": "Current value: external_scaler_enabled=false."}
        found.size = count
        self.writes.append((match["application"], count))
        return 200, {"message": "Scaling request received. Deployment will get scaled asynchronously."}


def _send(
    handler: BaseHTTPRequestHandler, status: int, body: object, headers: dict[str, str] | None = None
) -> None:
    content = json.dumps(body).encode()
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
