"""Bad input never reaches an engine, and the cluster goes on as if nothing had been."""

import asyncio
import json

import httpx
import openai
import pytest

from services.gateway.edge.settings import EdgeSettings
from tests.live.cluster import DEADLINE_S, RunningCluster
from tests.live.outputs import MODEL

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

TEXT: dict[str, object] = {"model": MODEL, "prompt": "The baton", "max_tokens": 4}
ENDLESS = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: "

WRONG: tuple[tuple[int, bytes], ...] = (
    (400, b""),
    (400, b"{"),
    (400, b'{"model": "baton-tiny", "prompt": "\xff\xfe"}'),
    (400, b'{"model": "baton-tiny", "prompt": ' + b"[" * 50_000),
    (404, json.dumps(TEXT | {"model": "nobody"}).encode()),
    (400, json.dumps(TEXT | {"max_tokens": -5}).encode()),
    (400, json.dumps(TEXT | {"max_tokens": "many"}).encode()),
    (400, json.dumps(TEXT | {"prompt": [-1]}).encode()),
    (400, json.dumps(TEXT | {"prompt": [10**6]}).encode()),
    (400, json.dumps(TEXT | {"prompt": [400] * 100_000}).encode()),
    (400, json.dumps(TEXT | {"temperature": -0.1}).encode()),
    (413, b"x" * (EdgeSettings().body_bytes_max + 1)),
)
"""Status that must come back, and body."""


async def send(http: httpx.AsyncClient, status: int, content: bytes) -> None:
    """Post a body; the answer must be an OpenAI error with this status."""
    answer = await http.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, *answer.json()) == (status, "error"), content[:80]


async def work_done(cluster: RunningCluster) -> list[float]:
    """Read all counters that move when a request gets behind the edge."""
    per_worker = ("baton_engine_step_frames_total", "baton_engine_tokens_total", "baton_handoffs_total")
    return [
        await cluster.counter("baton_placements_total"),
        await cluster.counter("baton_prompt_tokens_total"),
        *[await cluster.counter(n, w) for n in per_worker for w in ("prefill-0", "decode-0")],
    ]


async def test_a_burst_of_bad_input_leaves_the_engines_untouched(
    cluster: RunningCluster, http: httpx.AsyncClient, client: openai.AsyncOpenAI
) -> None:
    """Malformed, mistyped, huge, not UTF-8, half a request and silence: refused, and no counter moved."""
    for path in ("local", "remote"):  # every counter is there
        await client.completions.create(
            model=MODEL, prompt="The baton", max_tokens=4, extra_body={"baton": {"prefill": path}}
        )
    await cluster.becomes_idle()
    before = await work_done(cluster)
    halves = [
        await asyncio.open_connection("127.0.0.1", cluster.http_port) for _ in range(8)
    ]  # these say half a request, or nothing, and stay
    for index, (_, writer) in enumerate(halves):
        writer.write(ENDLESS + b'100\r\n\r\n{"model"' if index % 2 else b"")
        await writer.drain()
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(send(http, status, content) for status, content in WRONG * 4))
    assert await work_done(cluster) == before
    answer = await client.completions.create(model=MODEL, prompt="The baton", max_tokens=4)
    assert answer.usage is not None
    for _, writer in halves:
        writer.close()
        await writer.wait_closed()
    await cluster.becomes_idle()
