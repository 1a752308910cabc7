"""Logging in: password, token, certificates; each refusal names its setting."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from services.bus.embedded import EmbeddedNats
from services.bus.nats import connect
from services.bus.settings import BusSettings, EmbeddedSettings, TlsSettings
from services.domain.errors import BusUnavailable, ConfigurationInvalid
from tests.bus.certificates import Authority
from tests.bus.samples import seen, status, take


@asynccontextmanager
async def running(settings: EmbeddedSettings) -> AsyncIterator[str]:
    """A server with these settings; gives its URL."""
    server = EmbeddedNats(settings)
    url = await server.start()
    try:
        yield url
    finally:
        await server.stop()


async def works(settings: BusSettings) -> None:
    """Connect and exchange something."""
    bus = await connect(settings, name="login")
    try:
        await bus.announce(status("w"), ttl_s=5)
        async with bus.watch_fleet() as changes:
            assert await take(changes, 1) == [seen("w")]
    finally:
        await bus.close()


async def test_a_password_opens_and_a_wrong_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords come from the environment; a wrong or missing one is refused at once, not retried."""
    monkeypatch.setenv("NATS_PASSWORD", 'se"cr$et')
    monkeypatch.setenv("NATS_WRONG", "guess")
    async with running(EmbeddedSettings(user="baton", password_env="NATS_PASSWORD")) as url:
        await works(BusSettings(url=url, user="baton", password_env="NATS_PASSWORD"))
        for settings in (
            BusSettings(url=url, user="baton", password_env="NATS_WRONG"),
            BusSettings(url=url),
        ):
            with pytest.raises(ConfigurationInvalid, match="refuses us") as refused:
                await connect(settings, name="login")
            assert "guess" not in str(refused.value)
        with pytest.raises(ConfigurationInvalid, match="NATS_ABSENT") as refused:
            await connect(BusSettings(url=url, user="baton", password_env="NATS_ABSENT"), name="login")
        assert refused.value.key == "bus.password_env"


async def test_a_token_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token from the environment opens; another one, or none, does not."""
    monkeypatch.setenv("NATS_TOKEN", "token-of-baton")
    monkeypatch.setenv("NATS_WRONG", "guess")
    async with running(EmbeddedSettings(token_env="NATS_TOKEN")) as url:
        await works(BusSettings(url=url, token_env="NATS_TOKEN"))
        for settings in (BusSettings(url=url, token_env="NATS_WRONG"), BusSettings(url=url)):
            with pytest.raises(ConfigurationInvalid, match="refuses us"):
                await connect(settings, name="login")
        with pytest.raises(ConfigurationInvalid, match="NATS_ABSENT"):
            await connect(BusSettings(url=url, token_env="NATS_ABSENT"), name="login")


async def test_tls_checks_the_server(tmp_path: Path) -> None:
    """Traffic is encrypted and the server proven: another authority's server is refused."""
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    cert, key = ours.issue("server")
    async with running(EmbeddedSettings(tls_cert_file=cert, tls_key_file=key)) as url:
        assert url.startswith("tls://")
        await works(BusSettings(url=url, tls=TlsSettings(ca_file=str(ours.ca_file))))
        with pytest.raises(ConfigurationInvalid, match="refuses us"):
            await connect(BusSettings(url=url, tls=TlsSettings(ca_file=str(theirs.ca_file))), name="login")
        with pytest.raises(ConfigurationInvalid) as refused:
            await connect(BusSettings(url=url, tls=TlsSettings(ca_file="/absent.pem")), name="login")
        assert refused.value.key == "bus.tls"


async def test_tls_can_ask_for_the_clients_certificate(tmp_path: Path) -> None:
    """With mutual TLS a client of our authority comes in, one without certificate does not."""
    authority = Authority(tmp_path, "ours")
    server_cert, server_key = authority.issue("server")
    client_cert, client_key = authority.issue("client")
    ca = str(authority.ca_file)
    settings = EmbeddedSettings(tls_cert_file=server_cert, tls_key_file=server_key, tls_client_ca_file=ca)
    async with running(settings) as url:
        tls = TlsSettings(ca_file=ca, cert_file=client_cert, key_file=client_key)
        await works(BusSettings(url=url, tls=tls))
        with pytest.raises((BusUnavailable, ConfigurationInvalid)):
            await connect(
                BusSettings(url=url, tls=TlsSettings(ca_file=ca), connect_timeout_s=1.5), name="login"
            )


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"user": "baton"}, "bus.password_env"),
        ({"user": "baton", "password_env": "P", "token_env": "T"}, "bus.credentials_file"),
        ({"tls": {"cert_file": "c.pem"}}, "bus.tls.key_file"),
    ],
)
def test_impossible_combinations_are_refused(values: dict[str, object], key: str) -> None:
    """Half a login or two at once refuses the start and names the key."""
    with pytest.raises(ConfigurationInvalid) as refused:
        msgspec.convert(values, BusSettings)
    assert refused.value.key == key


@pytest.mark.parametrize(
    "values",
    [
        {"namespace": "a.b"},
        {"namespace": ""},
        {"request_timeout_s": 0},
        {"limits": {"queue_tasks_max": 0}},
        {"replicas": 6},
        {"unknown": 1},
    ],
)
def test_impossible_values_are_refused(values: dict[str, object]) -> None:
    """A value out of range or an unknown key is never clamped or ignored."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(values, BusSettings)
