"""Observers see what was served, and say when they see nothing."""

import asyncio

import httpx
import msgspec
import pytest

from planner.observers.gateways import GatewaysObserver
from planner.observers.port import ObservationFailed
from planner.observers.prometheus import PrometheusObserver
from planner.observers.settings import GatewaysSettings, PrometheusSettings
from planner.settings import KindSettings
from services.bus.fleet import Fleet
from services.bus.memory import MemoryBroker, MemoryBus
from services.domain.slo import Slo
from services.domain.worker import Phase
from services.runtime.clock import LoopClock, run_virtual
from services.runtime.metrics import Meters
from tests.planner.test_counters import served
from tests.router.scenery import DECODE, PREFILL
from tests.router.scenery import worker as announced

SLO = Slo(ttft_s=0.5, tpot_s=0.03)

# Answers of Prometheus 3.5 to instant queries, as recorded; the queries are told apart by what they ask for.
RECORDED = {
    "sum(increase(baton_requests_accepted_total": '[{"metric":{},"value":[1763740800.1,"1350"]}]',
    "sum(increase(baton_prompt_length_tokens_count": '[{"metric":{},"value":[1763740800.1,"1340"]}]',
    "sum(increase(baton_prompt_tokens_total": '[{"metric":{},"value":[1763740800.1,"1340000"]}]',
    "sum(increase(baton_cached_tokens_total": '[{"metric":{},"value":[1763740800.1,"335000"]}]',
    "sum(increase(baton_output_tokens_total": '[{"metric":{},"value":[1763740800.1,"268000"]}]',
    "sum by (le) (increase(baton_prompt_length_tokens_bucket": (
        '[{"metric":{"le":"256.0"},"value":[1763740800.1,"100"]},'
        '{"metric":{"le":"1024.0"},"value":[1763740800.1,"900"]},'
        '{"metric":{"le":"4096.0"},"value":[1763740800.1,"1340"]},'
        '{"metric":{"le":"+Inf"},"value":[1763740800.1,"1340"]}]'
    ),
    "sum by (le) (increase(baton_ttft_seconds_bucket": (
        '[{"metric":{"le":"0.5"},"value":[1763740800.1,"1273"]},'
        '{"metric":{"le":"+Inf"},"value":[1763740800.1,"1340"]}]'
    ),
    "sum by (le) (increase(baton_tpot_seconds_bucket": "[]",
    "sum by (le) (increase(baton_ttft_alone_seconds_bucket": (
        '[{"metric":{"le":"0.5"},"value":[1763740800.1,"1300"]},'
        '{"metric":{"le":"+Inf"},"value":[1763740800.1,"1340"]}]'
    ),
    "sum by (le) (increase(baton_tpot_alone_seconds_bucket": "[]",
    "time() - min(timestamp(": '[{"metric":{},"value":[1763740800.1,"7.25"]}]',
    "max(baton_queue_tasks": '[{"metric":{},"value":[1763740800.1,"12"]}]',
    "sum(baton_engine_running": '[{"metric":{},"value":[1763740800.1,"240"]}]',
    "avg by (phase) (baton_engine_pace_ratio": (
        '[{"metric":{"phase":"prefill"},"value":[1763740800.1,"1.1"]},'
        '{"metric":{"phase":"decode"},"value":[1763740800.1,"0.9"]}]'
    ),
}


def prometheus(answers: dict[str, str], *, selector: str = "") -> PrometheusObserver:
    """An observer whose server answers as recorded."""

    def answer(request: httpx.Request) -> httpx.Response:
        query = str(request.url.params["query"])
        if selector:
            assert f"{{{selector}}}" in query
            query = query.replace(f"{{{selector}}}", "")
        result = next(text for begin, text in answers.items() if query.startswith(begin))
        body = f'{{"status":"success","data":{{"resultType":"vector","result":{result}}}}}'
        return httpx.Response(200, content=body)

    client = httpx.AsyncClient(base_url="http://prometheus:9090", transport=httpx.MockTransport(answer))
    settings = PrometheusSettings(url="http://prometheus:9090", selector=selector)
    return PrometheusObserver(settings, SLO, client=client)


@pytest.mark.parametrize("selector", ["", 'namespace="llm"'])
async def test_prometheus_answers_become_a_sight(selector: str) -> None:
    """Demand, backlog, attainment and age from fourteen instant queries."""
    observer = prometheus(RECORDED, selector=selector)
    sight = await observer.look()
    assert sight.demand is not None
    assert sight.demand.requests_per_s == 45.0
    assert (sight.demand.prompt_tokens, sight.demand.uncached_tokens) == (1_000.0, 750.0)
    assert sight.demand.output_tokens == 200.0
    assert sight.demand.uncached_square_tokens > 750.0**2
    assert sight.age_s == 7.25
    assert (sight.backlog.waiting_count, sight.backlog.running_count) == (12, 240)
    assert sight.attainment.ttft_possible_frac == pytest.approx(1300 / 1340)
    assert sight.attainment.ttft_frac == pytest.approx(1273 / 1300)
    assert (sight.attainment.tpot_frac, sight.attainment.prefill_pace) == (1.0, 1.1)
    await observer.close()


async def test_a_server_without_gateways_is_no_idle_cluster() -> None:
    """Nothing scraped is nothing known: the pools keep their size."""
    observer = prometheus({**RECORDED, "time() - min(timestamp(": "[]"})
    with pytest.raises(ObservationFailed, match="no gateway is scraped"):
        await observer.look()


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, content=b'{"status":"error","error":"bad query"}'),
        httpx.Response(502, content=b"<html>"),
    ],
)
async def test_a_server_that_answers_nonsense_is_a_failed_look(response: httpx.Response) -> None:
    """Errors of the server and of what stands before it."""
    client = httpx.AsyncClient(
        base_url="http://prometheus:9090", transport=httpx.MockTransport(lambda _request: response)
    )
    with pytest.raises(ObservationFailed):
        await PrometheusObserver(PrometheusSettings(url="http://prometheus:9090"), SLO, client=client).look()


def test_gateways_and_the_bus_become_a_sight() -> None:
    """Counters by HTTP, workers and queue by the bus; the first reading alone tells no demand."""

    async def story() -> None:
        meters, clock, broker = Meters(), LoopClock(), MemoryBroker()
        worker, bus = MemoryBus(broker, "worker"), MemoryBus(broker, "planner")
        is_up = [True, False]

        def answer(request: httpx.Request) -> httpx.Response:
            up = is_up[0] if request.url.host == "one" else is_up[1]
            return httpx.Response(200, content=meters.render()) if up else httpx.Response(503)

        fleet = Fleet(bus)
        observer = GatewaysObserver(
            GatewaysSettings(urls=("http://one/metrics", "http://two/metrics")),
            SLO,
            now_s=clock.now_s,
            bus=bus,
            fleet=fleet,
            kind=KindSettings(),
            client=httpx.AsyncClient(transport=httpx.MockTransport(answer)),
        )
        await worker.announce(announced("p", PREFILL), ttl_s=60.0)
        await worker.announce(announced("d", DECODE), ttl_s=60.0)
        await asyncio.sleep(1.0)
        first = await observer.look()
        assert first.demand is None
        assert {pool.phase: pool.ready_count for pool in first.pools or ()} == {
            Phase.PREFILL: 1,
            Phase.DECODE: 1,
        }
        served(meters, 30)
        await asyncio.sleep(10.0)
        second = await observer.look()
        assert second.demand is not None
        assert second.demand.requests_per_s == pytest.approx(3.0)
        is_up[0] = False
        with pytest.raises(ObservationFailed, match="none of 2 gateways"):
            await observer.look()
        await observer.close()
        await fleet.close()

    run_virtual(story())


def test_the_recorded_answers_are_json() -> None:
    """The table above holds what a server would send."""
    for text in RECORDED.values():
        assert isinstance(msgspec.json.decode(text), list)
