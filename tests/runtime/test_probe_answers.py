"""A process answers for itself: its loop's life and its readiness, also when the loop is stuck."""

import asyncio
import threading
from http import HTTPStatus

import httpx
import pytest

from services.domain.errors import ConfigurationInvalid
from services.runtime import probe as probe_module
from services.runtime.metrics import Meters
from services.runtime.probe import LIVE_PATH, METRICS_PATH, READY_PATH, Probe

HOST = "127.0.0.1"


async def test_it_tells_life_readiness_and_metrics() -> None:
    """Live as soon as the loop turns, ready when the process says so, metrics as Prometheus reads them."""
    probe = Probe(Meters())
    port = probe.serve(HOST, 0)
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", trust_env=False) as http:
        assert (await http.get(LIVE_PATH)).status_code == HTTPStatus.OK
        assert (await http.get(READY_PATH)).status_code == HTTPStatus.SERVICE_UNAVAILABLE
        probe.ready = True
        assert (await http.get(READY_PATH)).status_code == HTTPStatus.OK
        assert "# TYPE baton_requests_total" in (await http.get(METRICS_PATH)).text
        assert (await http.get("/elsewhere")).status_code == HTTPStatus.NOT_FOUND
    await asyncio.to_thread(probe.close)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, port)


async def test_a_stuck_loop_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that takes no turn is told from outside, in bounded time: the answer does not wait for it."""
    monkeypatch.setattr(probe_module, "TURN_S", 0.05)
    probe = Probe(Meters())
    answers: list[HTTPStatus] = []
    asking = threading.Thread(target=lambda: answers.append(probe.answer(LIVE_PATH)[0]))
    asking.start()
    asking.join()  # on the loop's own thread: it takes no turn meanwhile
    assert answers == [HTTPStatus.SERVICE_UNAVAILABLE]


async def test_a_taken_port_is_named() -> None:
    """A port that another process has refuses the start with the key."""
    first, second = Probe(Meters()), Probe(Meters())
    port = first.serve(HOST, 0)
    with pytest.raises(ConfigurationInvalid, match=str(port)) as refused:
        second.serve(HOST, port)
    assert refused.value.key == "metrics_port"
    await asyncio.to_thread(first.close)
