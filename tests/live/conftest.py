"""The clusters that live tests share; each boots once, and at most two vLLM engines run at a time."""

from collections.abc import AsyncIterator, Generator, Iterator

import grpc
import httpx
import openai
import pytest

from services.cluster.settings import ClusterSettings, EngineKind, PoolSettings
from services.engine.simulated.settings import SimulatedSettings
from services.engine.vllm.settings import VllmSettings
from services.router.settings import RouterSettings
from services.tinymodel import model_path
from tests.live.cluster import RunningCluster, log_tails, open_cluster
from tests.live.outputs import Reference, record_reference

LEASE_S = 600
"""Longer than any wait here: a lease that ends does so because somebody ended it."""


def vllm(**changes: object) -> VllmSettings:
    """Settings of engines whose tokens can be compared: float32, since bf16 rounds by the batch."""
    chosen = {"model": str(model_path()), "dtype": "float32", "lease_s": LEASE_S} | changes
    return VllmSettings(**chosen)  # type: ignore[arg-type]  # a caller's own choice


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of running clusters with a test that failed."""
    report = yield
    if report.failed:
        report.sections.extend(log_tails())
    return report


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """What one aggregated engine without any connector answers, one request at a time; it is gone by now."""
    settings = ClusterSettings(pools=PoolSettings(prefill=0, decode=1), vllm=vllm(disaggregation=False))
    with open_cluster(settings, tmp_path_factory.mktemp("aggregated")) as cluster:
        return record_reference(cluster)


@pytest.fixture(scope="session")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningCluster]:
    """One prefill and one decode worker of real vLLM."""
    if any("reference" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("reference")  # first, since three engines at a time are too many
    # Sixteen requests at once on two cores miss the targets, and refusals are not what these tests ask for.
    settings = ClusterSettings(vllm=vllm(), router=RouterSettings(early_rejection=False))
    with open_cluster(settings, tmp_path_factory.mktemp("disaggregated")) as opened:
        yield opened


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Four decode and two prefill workers with simulated engines, fifty times faster than a GPU."""
    settings = ClusterSettings(
        engine=EngineKind.SIMULATED,
        pools=PoolSettings(prefill=2, decode=4),
        simulated=SimulatedSettings(speedup=50.0, context_tokens_max=4096, lease_s=LEASE_S),
    )
    with open_cluster(settings, tmp_path_factory.mktemp("simulated")) as opened:
        yield opened


@pytest.fixture
async def client(cluster: RunningCluster) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client of the real cluster."""
    async with cluster.openai() as opened:
        yield opened


@pytest.fixture
async def http(cluster: RunningCluster) -> AsyncIterator[httpx.AsyncClient]:
    """A plain client of the real cluster."""
    async with cluster.http() as opened:
        yield opened


@pytest.fixture
async def channel(cluster: RunningCluster) -> AsyncIterator[grpc.aio.Channel]:
    """A gRPC channel to the real cluster."""
    async with cluster.grpc() as opened:
        yield opened
