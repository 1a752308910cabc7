"""A server with a thread per question, and who goes away before the answer."""

import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from services.runtime.thread_server import ThreadServer

WAIT_S = 10.0


class Asked:
    """A server whose answer waits until it may come; then it is written, or a bug shows."""

    def __init__(self, error: Exception | None = None) -> None:
        asked, may_answer, served = threading.Event(), threading.Event(), threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.set()
                assert may_answer.wait(WAIT_S)
                if error is not None:
                    raise error
                for _ in range(100):  # the first bytes may still go out
                    self.wfile.write(bytes(100_000))

        class Server(ThreadServer):
            def process_request_thread(self, request: Any, client_address: Any) -> None:
                super().process_request_thread(request, client_address)
                served.set()

        self.asked, self.may_answer, self.served = asked, may_answer, served
        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def ask_and_go(self) -> None:
        """Ask, reset the connection, and let the answer come."""
        with socket.create_connection(("127.0.0.1", self.server.server_port), timeout=WAIT_S) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert self.asked.wait(WAIT_S)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.may_answer.set()
        assert self.served.wait(WAIT_S)
        self.server.shutdown()
        self.server.server_close()


def test_nothing_is_said_of_who_went_away(capfd: pytest.CaptureFixture[str]) -> None:
    """A planner that is killed while it asks leaves no traceback on the screen of `baton up`."""
    Asked().ask_and_go()
    assert not capfd.readouterr().err


def test_a_fault_of_the_server_is_not_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever else goes wrong is printed."""
    Asked(ValueError("out of order")).ask_and_go()
    assert "out of order" in capfd.readouterr().err
