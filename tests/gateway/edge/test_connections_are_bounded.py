"""Half a request, silence, a client that does not read: no connection waits for ever.

Bounds are set short where the test waits for them, and to an hour where they must not strike.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.gateway.rehearsal import Script
from tests.gateway.edge.conftest import Edge, StartEdge
from tests.gateway.edge.model_folder import MODEL

BODY = json.dumps({"model": MODEL, "prompt": "hi"}).encode()
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@asynccontextmanager
async def connect(edge: Edge) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a bare connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.http_port)
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.close()


def parse_answer(data: bytes) -> tuple[int, str]:
    """Split an answer into its status and the code of its error body."""
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


async def test_half_a_head_and_silence_is_408(start_edge: StartEdge) -> None:
    """A client that stops within its headers is answered and let go."""
    edge = await start_edge(head_timeout_s=0.1, idle_timeout_s=3600)
    async with connect(edge) as (reader, writer):
        writer.write(HEAD)
        assert parse_answer(await reader.read()) == (408, "request_timeout")


async def test_silence_from_the_start_is_closed(start_edge: StartEdge) -> None:
    """A connection without a byte is closed, without an answer to a question nobody asked."""
    edge = await start_edge(head_timeout_s=0.1, idle_timeout_s=3600)
    async with connect(edge) as (reader, _):
        assert await reader.read() == b""


async def test_half_a_body_and_silence_is_408(start_edge: StartEdge) -> None:
    """A client that stops within its body is answered; nothing was started for it."""
    edge = await start_edge(body_timeout_s=0.1, head_timeout_s=3600)
    async with connect(edge) as (reader, writer):
        writer.write(HEAD + b"content-length: 1000\r\nconnection: close\r\n\r\n" + BODY)
        assert parse_answer(await reader.read()) == (408, "request_timeout")
    assert not edge.serving.recent()


async def test_an_idle_kept_connection_is_closed(start_edge: StartEdge) -> None:
    """A connection is kept for a next request, and closed when none comes."""
    edge = await start_edge(idle_timeout_s=1, head_timeout_s=3600)
    async with connect(edge) as (reader, writer):
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")


async def test_half_a_second_head_is_408(start_edge: StartEdge) -> None:
    """A kept connection is bounded at its second request as at its first."""
    edge = await start_edge(head_timeout_s=0.1, idle_timeout_s=3600)
    async with connect(edge) as (reader, writer):
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b'{"status":"live"}')
        writer.write(b"GET /health")
        assert parse_answer(await reader.read()) == (408, "request_timeout")


async def test_endless_headers_are_431(start_edge: StartEdge) -> None:
    """The head of a request is bounded, however it is sent."""
    edge = await start_edge(head_bytes_max=4096, head_timeout_s=3600)
    async with connect(edge) as (reader, writer):
        writer.write(HEAD + b"x-long: " + b"x" * 8192)
        assert parse_answer(await reader.read()) == (431, "head_too_large")


async def test_bytes_that_are_no_http_are_400(edge: Edge) -> None:
    """A client of another protocol gets an error body, not silence."""
    async with connect(edge) as (reader, writer):
        writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        assert parse_answer(await reader.read()) == (400, "invalid_http")


async def test_too_many_connections_are_503(start_edge: StartEdge) -> None:
    """Connections are bounded; those within the bound are served on."""
    edge = await start_edge(connections_max=1)
    async with connect(edge) as (first, first_writer):
        first_writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        await first.readuntil(b'{"status":"live"}')
        async with connect(edge) as (second, _):
            assert parse_answer(await second.read()) == (503, "saturated")
        first_writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        await first.readuntil(b'{"status":"live"}')


async def test_a_client_that_does_not_read_is_dropped(start_edge: StartEdge, script: Script) -> None:
    """Deltas wait for a slow client only so long; then its request is cancelled."""
    edge = await start_edge(script, stalled_write_timeout_s=0.2)
    body = json.dumps(
        {"model": MODEL, "prompt": "hi", "n": 16, "max_tokens": 500, "stream": True, "logprobs": 20}
    )
    loop = asyncio.get_running_loop()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.setblocking(False)
        await loop.sock_connect(deaf, ("127.0.0.1", edge.http_port))
        head = HEAD + b"content-length: %d\r\n\r\n" % len(body)
        await loop.sock_sendall(deaf, head + body.encode())
        async with asyncio.timeout(20):
            while not edge.count("baton_requests_total", api="completions", outcome="client_gone"):
                await edge.http.get("/health/live")
    assert edge.serving.cancelled_count == 16
    assert edge.serving.active_count == 0
    assert edge.count("baton_requests_total", api="completions", outcome="client_gone") == 1


async def test_requests_on_one_connection_are_answered_in_order(edge: Edge) -> None:
    """Two requests sent at once on one connection get two answers."""
    request = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
    async with connect(edge) as (reader, writer):
        writer.write(request + b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        data = await reader.readuntil(b'{"status":"live"}')
    assert data.count(b"HTTP/1.1 200") == 2
    assert data.index(b"text_completion") < data.index(b"live")
