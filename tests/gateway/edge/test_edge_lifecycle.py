"""Start, drain and stop: ports, calls in progress, and what is refused meanwhile."""

import asyncio
import dataclasses
import socket

import httpx
import pytest

from services.domain.errors import ConfigurationInvalid
from services.gateway.edge.settings import EdgeSettings
from services.gateway.rehearsal import Script
from tests.gateway.edge.conftest import StartEdge, new_client
from tests.gateway.edge.model_folder import MODEL

PROMPT = {"model": MODEL, "prompt": "hi", "max_tokens": 20}


@pytest.mark.parametrize("key", ["http_port", "grpc_port", "metrics_port"])
async def test_an_address_in_use_refuses_the_start(start_edge: StartEdge, script: Script, key: str) -> None:
    """The message names the key, and the other port is free again."""
    with socket.socket() as taken, socket.socket() as probe:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        probe.bind(("127.0.0.1", 0))
        other = probe.getsockname()[1]
        probe.close()
        ports = {"http_port": other, "grpc_port": 0, "metrics_port": 0} | {key: taken.getsockname()[1]}
        with pytest.raises(ConfigurationInvalid) as caught:
            await start_edge(script, **ports)
        assert caught.value.key == f"edge.{key}"
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", other))


async def test_drain_lets_calls_end(start_edge: StartEdge, script: Script) -> None:
    """A call in progress gets its whole answer; new connections are refused."""
    edge = await start_edge(dataclasses.replace(script, token_s=0.01))
    async with new_client(edge.url) as client:
        call = asyncio.ensure_future(client.post("/v1/completions", json=PROMPT))
        async with asyncio.timeout(10):
            while not edge.serving.active_count:
                await edge.http.get("/health/live")
        assert await edge.server.drain(10)
        answer = await call
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 20
        with pytest.raises(httpx.ConnectError):
            await client.get("/health/live")


async def test_stop_cuts_what_does_not_end(start_edge: StartEdge, script: Script) -> None:
    """A drain has a deadline; after stop no request is left, and the client sees no complete answer."""
    edge = await start_edge(dataclasses.replace(script, token_s=3600))
    async with new_client(edge.url) as client:
        call = asyncio.ensure_future(client.post("/v1/completions", json=PROMPT | {"stream": True}))
        async with asyncio.timeout(10):
            while not edge.serving.active_count:
                await edge.http.get("/health/live")
        assert not await edge.server.drain(0.05)
        await edge.server.stop()
        with pytest.raises(httpx.TransportError):
            await call
    assert (edge.serving.active_count, edge.serving.cancelled_count) == (0, 1)


async def test_readiness_has_a_reason(start_edge: StartEdge) -> None:
    """Live is about the process, ready about what is behind it; 503 says why not."""
    edge = await start_edge()
    assert (await edge.http.get("/health/ready")).json() == {"status": "ready"}
    edge.serving.not_ready_because = "no decode worker is ready"
    answer = await edge.http.get("/health/ready")
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "no decode worker is ready")
    assert (await edge.http.get("/health/live")).status_code == 200


async def test_requests_can_be_looked_at(start_edge: StartEdge) -> None:
    """A request's record is found by the id in its answer; an unknown one is 404; metrics count it."""
    edge = await start_edge()
    request_id = (await edge.http.post("/v1/completions", json=PROMPT)).headers["x-request-id"]
    record = (await edge.http.get(f"/baton/v1/requests/{request_id}")).json()
    assert (record["request_id"], record["output_tokens"], record["finish"]) == (request_id, 20, "length")
    assert (await edge.http.get("/baton/v1/requests")).json()["data"] == [record]
    assert (await edge.http.get("/baton/v1/requests/unknown")).status_code == 404
    assert (await edge.http.get("/baton/v1/cluster")).json()["active_count"] == 0
    metrics = await edge.http.get("/metrics")
    assert 'baton_requests_total{api="completions",outcome="ok"} 1.0' in metrics.text


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("http_port", {"http_port": 70_000}),
        ("body_timeout_s", {"body_timeout_s": 0}),
        ("tokenize_threads", {"tokenize_threads": 0}),
        ("choices_max", {"requests_active_max": 8, "choices_max": 9}),
        ("body_bytes_max", {"bodies_bytes_max": 1000}),
    ],
)
def test_impossible_settings_are_refused_by_name(key: str, change: dict[str, int]) -> None:
    """A setting that could never serve stops the start and is named."""
    with pytest.raises(ConfigurationInvalid) as caught:
        EdgeSettings(**change)  # type: ignore[arg-type]  # that is the point
    assert caught.value.key == f"edge.{key}"
