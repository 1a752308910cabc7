"""A gateway's page of metrics behind real HTTP, in a thread, for what runs a loop of its own."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from services.runtime.metrics import Meters


class GatewayPage:
    """Serves meters on a free port of loopback until closed."""

    def __init__(self, meters: Meters) -> None:
        """Serve the meters as they are at each request."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = meters.render()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the parent's own name
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/metrics"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()
