"""A running edge with a rehearsal behind it, and clients of it."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from services.gateway.edge.assets import ModelAssets
from services.gateway.edge.server import EdgeServer
from services.gateway.edge.settings import EdgeSettings, EdgeTls
from services.gateway.port import ServedModel
from services.gateway.rehearsal import Rehearsal, Script
from services.runtime.metrics import Meters
from tests.gateway.edge.model_folder import CONTEXT_TOKENS, MODEL, WORDS, write_model_folder


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A running edge and what is behind it."""

    server: EdgeServer
    serving: Rehearsal
    meters: Meters
    assets: ModelAssets
    ports: tuple[int, ...]
    url: str
    http: httpx.AsyncClient
    openai: openai.AsyncOpenAI

    @property
    def http_port(self) -> int:
        """Where HTTP is served."""
        return self.ports[0]

    @property
    def grpc_port(self) -> int:
        """Where gRPC is served."""
        return self.ports[1]

    def count(self, name: str, **labels: str) -> float:
        """Read a counter or gauge from the metrics text."""
        marks = ",".join(f'{k}="{v}"' for k, v in labels.items())
        wanted = f"{name}{{{marks}}} " if labels else f"{name} "
        lines = self.meters.render().decode().splitlines()
        return sum(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))


_PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Used where nothing is encrypted; without it each client reads all certificates of the machine anew."""


def new_client(url: str, trust: ssl.SSLContext = _PLAIN) -> httpx.AsyncClient:
    """Make a client with connections of its own."""
    return httpx.AsyncClient(base_url=url, timeout=20, verify=trust)


StartEdge = Callable[..., Awaitable[Edge]]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer and a chat template."""
    return write_model_folder(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="session")
def assets(model_folder: Path) -> ModelAssets:
    """The folder, loaded."""
    return ModelAssets.load(model_folder)


@pytest.fixture
def script(assets: ModelAssets) -> Script:
    """Say the words over and over, as fast as they are taken."""
    return Script(token_ids=tuple(assets.tokenizer.encode(WORDS).ids))


@pytest.fixture
async def start_edge(assets: ModelAssets, script: Script) -> AsyncIterator[StartEdge]:
    """Start edges with settings of the test's choice; all of them end with the test."""
    async with AsyncExitStack() as stack:

        async def start(
            play: Script = script,
            *,
            tls: EdgeTls | None = None,
            trust: ssl.SSLContext = _PLAIN,
            **settings: object,
        ) -> Edge:
            serving = Rehearsal(model=ServedModel(name=MODEL, context_tokens_max=CONTEXT_TOKENS), script=play)
            meters = Meters()
            chosen = {"http_port": 0, "grpc_port": 0} | settings
            server = EdgeServer(
                settings=EdgeSettings(tls=tls, **chosen),  # type: ignore[arg-type]  # a test's own choice
                serving=serving,
                meters=meters,
                model_assets={MODEL: assets},
            )
            stack.push_async_callback(server.stop)
            ports = await server.start()
            url = f"http{'s' if tls else ''}://127.0.0.1:{ports[0]}"
            http = await stack.enter_async_context(new_client(url, trust))
            official = await stack.enter_async_context(
                openai.AsyncOpenAI(
                    base_url=f"{url}/v1",
                    api_key="none",
                    max_retries=0,
                    timeout=20,
                    http_client=openai.DefaultAsyncHttpxClient(verify=trust),
                )
            )
            return Edge(
                server=server,
                serving=serving,
                meters=meters,
                assets=assets,
                ports=ports,
                url=url,
                http=http,
                openai=official,
            )

        yield start


@pytest.fixture
async def edge(start_edge: StartEdge) -> Edge:
    """An edge with default bounds."""
    return await start_edge()
