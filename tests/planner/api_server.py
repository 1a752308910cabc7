"""A small Kubernetes API server in a thread: workloads with a scale subresource, versions, and faults.

It speaks what the documentation of autoscaling/v1 Scale says: GET and PUT of `.../scale`, 409 when the
version in a PUT is not the present one.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def _nothing() -> None:
    """Nobody interferes."""


@dataclass
class Workload:
    """One workload."""

    replicas: int = 1
    ready: int = 1
    version: int = 1
    annotations: dict[str, str] = field(default_factory=dict)


class ApiServer:
    """Holds workloads by path; `faults` are answered first, one per request."""

    def __init__(self, workloads: dict[str, Workload]) -> None:
        """Serve on a free port of loopback.

        Args:
            workloads: by path below the server's root, without the slash at its beginning.
        """
        self.workloads = workloads
        self.faults: list[tuple[int, dict[str, str]]] = []
        self.tokens: list[str] = []
        self.writes: list[tuple[str, int]] = []
        self.on_scale_read: Callable[[], None] = _nothing
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self, None)

            def do_PUT(self) -> None:
                length = int(self.headers["Content-Length"])
                server.answer(self, json.loads(self.rfile.read(length)))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the parent's own name
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, object] | None) -> None:
        """Answer one request."""
        self.tokens.append(handler.headers.get("Authorization", ""))
        if self.faults:
            status, headers = self.faults.pop(0)
            self._send(handler, status, {"kind": "Status"}, headers)
            return
        path, _, subresource = handler.path.strip("/").partition("/scale")
        workload = self.workloads.get(path)
        if workload is None:
            self._send(handler, 404, {"kind": "Status", "reason": "NotFound"})
            return
        is_scale = handler.path.endswith("/scale") and subresource == ""
        if body is not None:
            metadata, spec = body["metadata"], body["spec"]
            assert isinstance(metadata, dict)
            assert isinstance(spec, dict)
            if metadata["resourceVersion"] != str(workload.version):
                self._send(handler, 409, {"kind": "Status", "reason": "Conflict"})
                return
            workload.replicas = spec["replicas"]
            workload.version += 1
            self.writes.append((path, workload.replicas))
        shown = {
            "metadata": {"resourceVersion": str(workload.version), "annotations": workload.annotations},
            "spec": {"replicas": workload.replicas},
            "status": {"replicas": workload.replicas, "readyReplicas": workload.ready},
        }
        self._send(handler, 200, shown)
        if is_scale and body is None:
            self.on_scale_read()

    @staticmethod
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
