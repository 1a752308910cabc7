"""The API server of `kubernetes.api_state` behind real HTTP, in a thread, for what runs a loop of its own."""

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from tests.planner.kubernetes.api_state import ApiState, Json


class ApiServer:
    """Serves on a free port of loopback until closed."""

    def __init__(self, state: ApiState) -> None:
        """Serve a state.

        Args:
            state: what is served; touched by one request at a time.
        """
        self.state = state
        self.methods: list[str] = []
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._serve(self)

            def do_PUT(self) -> None:
                server._serve(self)

            def do_PATCH(self) -> None:
                server._serve(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the parent's own name
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        path, query = url.path.strip("/"), dict(parse_qsl(url.query))
        self.methods.append(handler.command)
        if "watch" in query:
            self._watch(handler, path, query)
            return
        length = int(handler.headers.get("Content-Length", 0))
        body = json.loads(handler.rfile.read(length)) if length else None
        with self._lock:
            answer = self.state.ask(
                handler.command, path, handler.headers.get("Authorization", ""), query, body
            )
            content = json.dumps(answer.body).encode()
        handler.send_response(answer.status)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _watch(self, handler: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> None:
        lines: queue.Queue[Json] = queue.Queue()
        with self._lock:
            watching = self.state.watch(path, query, lines.put)
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.flush()
        try:
            while True:
                line = lines.get(timeout=float(query["timeoutSeconds"]))
                handler.wfile.write(json.dumps(line).encode() + b"\n")
        except (queue.Empty, OSError):
            pass
        finally:
            with self._lock:
                self.state.watches = [one for one in self.state.watches if one is not watching]
