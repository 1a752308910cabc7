"""CPU time of the gateway's edge per request and per token, with a rehearsal behind it.

Run it with `python -m tests.bench.bench_edge`. A server process answers over real sockets; this process
loads it and reads the server's CPU time from the system, so that what the client costs is not counted.
The first row is the yardstick of the same run: a health check, which is the bare cost of HTTP.
`--tls` measures the first rows in the clear and then encrypted, with the same yardstick.
"""

import asyncio
import json
import multiprocessing
import os
import ssl
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

from services.gateway.edge.assets import ModelAssets
from services.gateway.edge.server import EdgeServer
from services.gateway.edge.settings import EdgeSettings, EdgeTls
from services.gateway.port import ServedModel
from services.gateway.rehearsal import Rehearsal, Script
from services.runtime.metrics import Meters
from tests.bus.certificates import Authority

MODEL = "rehearsal"
WEIGHTS = Path("services/tinymodel/weights")
WORDS = "The tortoise walked and walked, slowly but surely, while the hare lay asleep under a tree. "
CONTEXT_TOKENS = 1 << 20
END = b"0\r\n\r\n"
"""How a chunked answer ends."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where a server answers; `trust` where it is encrypted."""

    port: int
    pid: int
    trust: ssl.SSLContext | None


@dataclass(frozen=True, kw_only=True)
class Load:
    """One row."""

    name: str
    connections: int
    calls: int
    prompt_words: int = 0
    """0 asks for health instead."""
    max_tokens: int = 0
    stream: bool = True
    n: int = 1


LOADS = (
    Load(name="health check (yardstick)", connections=64, calls=8000),
    Load(name="300-token chat, 1 token", connections=64, calls=4000, prompt_words=300, max_tokens=1),
    Load(name="300-token chat, 32 tokens", connections=64, calls=2000, prompt_words=300, max_tokens=32),
    Load(name="300-token chat, 256 tokens", connections=64, calls=500, prompt_words=300, max_tokens=256),
    Load(
        name="same, 32 tokens, not streamed",
        connections=64,
        calls=2000,
        prompt_words=300,
        max_tokens=32,
        stream=False,
    ),
    Load(
        name="same, 512 connections, 32 tokens", connections=512, calls=3000, prompt_words=300, max_tokens=32
    ),
    Load(name="3,000-token chat, 1 token", connections=64, calls=1500, prompt_words=3000, max_tokens=1),
    Load(name="30,000-token chat, 1 token", connections=16, calls=150, prompt_words=30_000, max_tokens=1),
)


async def serve(pipe: Connection, tls: EdgeTls | None) -> None:
    """Serve until told to stop."""
    assets = ModelAssets.load(WEIGHTS)
    roomy = ModelAssets(
        tokenizer=assets.tokenizer,
        vocabulary=assets.vocabulary,
        chat_template=assets.chat_template,
        prompt_ids_max=assets.prompt_ids_max,
        context_tokens_max=CONTEXT_TOKENS,
        end_token_ids=assets.end_token_ids,
    )
    script = Script(token_ids=tuple(assets.tokenizer.encode(WORDS).ids))
    serving = Rehearsal(model=ServedModel(name=MODEL, context_tokens_max=CONTEXT_TOKENS), script=script)
    edge = EdgeServer(EdgeSettings(http_port=0, grpc_port=0, tls=tls), serving, Meters(), {MODEL: roomy})
    pipe.send((*(await edge.start()), os.getpid()))
    await asyncio.to_thread(pipe.recv)
    await edge.stop()


def server_process(pipe: Connection, tls: EdgeTls | None) -> None:
    """Run the server on the loop that a gateway should run on."""
    uvloop.run(serve(pipe, tls))


def cpu_s(pid: int) -> float:
    """CPU time of a process so far, its threads included (Linux, proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def request_of(load: Load, words_per_token: float) -> bytes:
    """Write one request, to be sent again and again."""
    if not load.prompt_words:
        return b"GET /health/live HTTP/1.1\r\nhost: bench\r\n\r\n"
    words = (WORDS * (load.prompt_words // 16 + 2)).split()[: round(load.prompt_words * words_per_token)]
    body = json.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": " ".join(words)}],
            "max_tokens": load.max_tokens,
            "stream": load.stream,
            "n": load.n,
        }
    )
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


async def ask(server: Server, request: bytes, calls: int) -> float:
    """Send requests one after another on one connection; give back the sum of their durations."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 20, ssl=server.trust)
    began = time.perf_counter()
    for _ in range(calls):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        if b"transfer-encoding: chunked" in head:
            await reader.readuntil(END)
        else:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
    writer.close()
    return time.perf_counter() - began


async def measure(load: Load, server: Server, words_per_token: float) -> tuple[float, float, float]:
    """Give back CPU per call in ms, calls per second and mean duration of a call in ms."""
    request = request_of(load, words_per_token)
    per_connection = max(1, load.calls // load.connections)
    calls = per_connection * load.connections
    before, began = cpu_s(server.pid), time.perf_counter()
    took = await asyncio.gather(*(ask(server, request, per_connection) for _ in range(load.connections)))
    elapsed = time.perf_counter() - began
    return (cpu_s(server.pid) - before) / calls * 1e3, calls / elapsed, sum(took) / calls * 1e3


async def load_all(loads: Sequence[Load], server: Server, yardstick: float | None) -> float | None:
    """Print one row per load; the second of two runs counts. Gives back the yardstick, CPU ms per call."""
    tokenizer = ModelAssets.load(WEIGHTS).tokenizer
    words_per_token = len((WORDS * 20).split()) / len(tokenizer.encode(WORDS * 20).ids)
    print(f"{'load':36} {'CPU ms/call':>12} {'calls/s':>9} {'mean ms':>9} {'x yardstick':>12}")
    for load in loads:
        await measure(load, server, words_per_token)
        cpu_ms, rate, mean_ms = await measure(load, server, words_per_token)
        yardstick = yardstick or cpu_ms
        print(f"{load.name:36} {cpu_ms:12.3f} {rate:9.0f} {mean_ms:9.1f} {cpu_ms / yardstick:12.1f}")
    return yardstick


def load_server(
    loads: Sequence[Load], tls: EdgeTls | None, trust: ssl.SSLContext | None, yardstick: float | None
) -> float | None:
    """Start a server, load it, stop it; gives back the yardstick."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=server_process, args=(theirs, tls))
    process.start()
    try:
        port, _, pid = ours.recv()
        return uvloop.run(load_all(loads, Server(port=port, pid=pid, trust=trust), yardstick))
    finally:
        ours.send("stop")
        process.join(10)
        process.kill()


def main() -> int:
    """Measure in the clear, and encrypted too where that is asked for."""
    if "--tls" not in sys.argv[1:]:
        load_server(LOADS, None, None, None)
        return 0
    first = LOADS[:4]
    yardstick = load_server(first, None, None, None)
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder), "authority")
        certificate, key = authority.issue("edge")
        trust = ssl.create_default_context(cafile=str(authority.ca_file))
        print("with TLS")
        load_server(first, EdgeTls(certificate_file=certificate, key_file=key), trust, yardstick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
