"""HTTP and gRPC with TLS: who gets in, who does not, and what a renewal changes."""

import dataclasses
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import msgspec
import openai
import pytest

from services.domain.errors import ConfigurationInvalid
from services.gateway.edge.settings import EdgeTls
from services.gateway.rehearsal import Script
from services.wire.generated.baton.v1 import inference_pb2 as pb
from services.wire.generated.baton.v1 import inference_pb2_grpc
from tests.bus.certificates import Authority, replace_files
from tests.gateway.edge.conftest import Edge, StartEdge, new_client
from tests.gateway.edge.model_folder import MODEL, WORDS

CHAT: dict[str, object] = {"model": MODEL, "prompt": "hi", "max_tokens": 4}


@dataclass(frozen=True, kw_only=True)
class Client:
    """What a client knows of certificates."""

    authority: Authority
    pair: tuple[str, str] | None = None

    @property
    def trust(self) -> ssl.SSLContext:
        """For HTTP."""
        context = ssl.create_default_context(cafile=str(self.authority.ca_file))
        if self.pair is not None:
            context.load_cert_chain(*self.pair)
        return context

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        """For gRPC."""
        chain, key = [Path(file).read_bytes() for file in self.pair] if self.pair else (None, None)
        return grpc.ssl_channel_credentials(self.authority.ca_file.read_bytes(), key, chain)

    async def asks_http(self, edge: Edge) -> str:
        """Ask over a new connection, with the official client."""
        transport = openai.DefaultAsyncHttpxClient(verify=self.trust)
        async with openai.AsyncOpenAI(
            base_url=f"{edge.url}/v1", api_key="none", max_retries=0, timeout=20, http_client=transport
        ) as client:
            answer = await client.completions.create(model=MODEL, prompt="hi", max_tokens=4)
        return answer.choices[0].text

    async def asks_grpc(self, edge: Edge) -> str:
        """Ask over a new channel."""
        async with grpc.aio.secure_channel(f"127.0.0.1:{edge.grpc_port}", self.credentials) as channel:
            return await ask(channel)

    async def is_refused(self, edge: Edge) -> bool:
        """Tell whether both ports keep it out."""
        with pytest.raises(openai.APIConnectionError):
            await self.asks_http(edge)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.asks_grpc(edge)
        return caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def ask(channel: grpc.aio.Channel) -> str:
    """Ask one question over gRPC."""
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    sampling = pb.SamplingOptions(max_tokens=4)
    answer = await stub.Generate(pb.GenerateRequest(model=MODEL, text="hi", sampling=sampling), timeout=20)
    return answer.text


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Signs the edge."""
    return Authority(tmp_path, "authority")


def tls_of(authority: Authority, *, clients: Authority | None = None) -> EdgeTls:
    """Settings of an edge with a certificate; with one that signs clients, all of them need one."""
    certificate, key = authority.issue("edge")
    return EdgeTls(
        certificate_file=certificate,
        key_file=key,
        client_authority_file=None if clients is None else str(clients.ca_file),
    )


async def test_official_clients_are_answered(start_edge: StartEdge, authority: Authority) -> None:
    """The clients of openai and grpc check the certificate and get the text, whole and streamed."""
    anyone = Client(authority=authority)
    edge = await start_edge(tls=tls_of(authority), trust=anyone.trust)
    text = (await edge.openai.completions.create(model=MODEL, prompt="hi", max_tokens=4)).choices[0].text
    assert text in WORDS * 2
    assert await anyone.asks_grpc(edge) == text
    stream = await edge.openai.completions.create(model=MODEL, prompt="hi", max_tokens=4, stream=True)
    assert "".join([piece.choices[0].text async for piece in stream if piece.choices]) == text


async def test_plain_text_is_refused(start_edge: StartEdge, authority: Authority) -> None:
    """Who does not encrypt, or trusts another authority, is not served; the next one is."""
    edge = await start_edge(tls=tls_of(authority))
    async with new_client(f"http://127.0.0.1:{edge.http_port}") as plain:
        with pytest.raises(httpx.TransportError):
            await plain.post("/v1/completions", json=CHAT)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.grpc_port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(channel)
    assert await Client(authority=Authority(Path(authority.ca_file).parent, "stranger")).is_refused(edge)
    assert await Client(authority=authority).asks_http(edge)
    assert edge.count("baton_requests_total", api="completions", outcome="ok") == 1


async def test_clients_prove_who_they_are_where_that_is_asked(
    start_edge: StartEdge, authority: Authority, tmp_path: Path
) -> None:
    """With `client_authority_file` nobody without a certificate of that authority gets an answer."""
    members = Authority(tmp_path, "members")
    edge = await start_edge(tls=tls_of(authority, clients=members))
    known = Client(authority=authority, pair=members.issue("member"))
    assert await known.asks_http(edge) == await known.asks_grpc(edge)
    assert await Client(authority=authority).is_refused(edge)
    assert await Client(authority=authority, pair=authority.issue("other")).is_refused(edge)


async def test_a_renewal_cuts_no_stream(start_edge: StartEdge, script: Script, tmp_path: Path) -> None:
    """Calls in progress end as if nothing had happened; new ones meet the new certificate, and only that."""
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    tls, before, after = tls_of(old), Client(authority=old), Client(authority=new)
    edge = await start_edge(dataclasses.replace(script, token_s=0.01), tls=tls, trust=before.trust)
    stream = await edge.openai.completions.create(model=MODEL, prompt="hi", max_tokens=60, stream=True)
    pieces = [await anext(stream)]
    replace_files((tls.certificate_file, tls.key_file), new.issue("renewed"))
    text = await after.asks_http(edge)
    assert await after.asks_grpc(edge) == text
    assert await before.is_refused(edge)
    pieces += [piece async for piece in stream]
    assert pieces[-1].choices[0].finish_reason == "length"
    assert "".join(piece.choices[0].text for piece in pieces).startswith(text)
    renewals = "baton_certificate_renewals_total"
    assert edge.count(renewals, listener="edge", outcome="taken") == 1


async def test_a_bad_renewal_changes_nothing_but_the_metrics(
    start_edge: StartEdge, authority: Authority
) -> None:
    """A key that is not the certificate's: the last pair goes on, and the failure is counted once."""
    tls, anyone = tls_of(authority), Client(authority=authority)
    edge = await start_edge(tls=tls)
    replace_files((tls.key_file,), authority.issue("other")[1:])
    text = await anyone.asks_http(edge)
    assert await anyone.asks_grpc(edge) == text
    renewals = "baton_certificate_renewals_total"
    assert edge.count(renewals, listener="edge", outcome="refused") == 1


@pytest.mark.parametrize("key", ["certificate_file", "key_file", "client_authority_file"])
async def test_a_file_that_is_missing_refuses_the_start(
    start_edge: StartEdge, authority: Authority, key: str
) -> None:
    """The setting and the file are named."""
    tls = msgspec.structs.replace(tls_of(authority, clients=authority), **{key: "/nowhere/tls.pem"})
    with pytest.raises(ConfigurationInvalid, match="No such file") as caught:
        await start_edge(tls=tls)
    assert caught.value.key == f"edge.tls.{key}"


async def test_those_who_watch_need_no_certificate(start_edge: StartEdge, authority: Authority) -> None:
    """The metrics port tells of gateway and cluster in the clear, and of no request."""
    edge = await start_edge(tls=tls_of(authority, clients=authority), metrics_port=0)
    async with new_client(f"http://127.0.0.1:{edge.ports[2]}") as watch:
        for path in ("/health/live", "/health/ready", "/metrics", "/baton/v1/cluster"):
            assert (await watch.get(path)).status_code == 200, path
        for path in ("/v1/models", "/baton/v1/requests", "/openapi.json"):
            assert (await watch.get(path)).status_code == 404, path
        assert (await watch.post("/v1/completions", json=CHAT)).status_code == 404
        assert "baton_certificate_expiry_timestamp_seconds" in (await watch.get("/metrics")).text
