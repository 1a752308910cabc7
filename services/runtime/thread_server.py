"""A small HTTP server beside an event loop, a thread per question.

Comes in: a handler. Goes out: answers. Invariant: who asked and is gone before the answer is no error, since
nobody is left to tell.
Not here: what is answered (`probe`, `services.cluster.launcher_port`).
"""

import sys
from http.server import ThreadingHTTPServer
from typing import Any


class ThreadServer(ThreadingHTTPServer):
    """Answers whatever its handler knows."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what a handler did not expect, but for a connection that is gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
