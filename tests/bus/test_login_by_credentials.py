"""Logging in with a credentials file to a server in operator mode; each refusal names the setting."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.bus.nats import connect
from services.bus.port import Bus
from services.bus.settings import BusSettings
from services.domain.errors import ConfigurationInvalid
from tests.bus.operators import Identity, OperatedNats, Operator
from tests.bus.samples import DEADLINE_S, first, seen, status, take, task, until_empty

KEY = "bus.credentials_file"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[Operator, OperatedNats]]:
    """A server that trusts an operator."""
    operator = Operator(tmp_path)
    nats = OperatedNats(operator)
    await nats.start()
    try:
        yield operator, nats
    finally:
        await nats.stop()


async def test_a_user_of_the_account_comes_in(server: tuple[Operator, OperatedNats]) -> None:
    """A user with the account's JWT has the whole bus: fleet, queue and claims."""
    operator, nats = server
    settings = BusSettings(url=nats.url, credentials_file=operator.issue("user", lives_s=3600))
    bus = await connect(settings, name="login")
    try:
        await bus.announce(status("w"), ttl_s=5)
        async with bus.watch_fleet() as changes:
            assert await take(changes, 1) == [seen("w")]
        async with bus.queue.view() as view:
            await bus.queue.enqueue(task("t"))
            claimed = await bus.queue.claim(await first(view), status("w").worker_id)
            assert claimed is not None
            assert await bus.queue.complete(claimed)
            await until_empty(view)
    finally:
        await bus.close()


async def test_refused_credentials_are_named(server: tuple[Operator, OperatedNats], tmp_path: Path) -> None:
    """An expired user, a stranger's user and none at all are refused at once, and the first two told why."""
    operator, nats = server
    stranger = Operator(tmp_path)
    for path, reason in (
        (operator.issue("late", lives_s=-60), r"expired \d+ s ago"),
        (stranger.issue("stranger"), "does the server know its account"),
    ):
        with pytest.raises(ConfigurationInvalid, match=reason) as refused:
            await connect(BusSettings(url=nats.url, credentials_file=path), name="login")
        assert refused.value.key == KEY
        assert f"{KEY} {path}" in str(refused.value)
    with pytest.raises(ConfigurationInvalid, match="refuses us") as refused:
        await connect(BusSettings(url=nats.url), name="login")
    assert refused.value.key == "bus"


def _other_key(operator: Operator) -> str:
    return operator.write("file", operator.user_jwt(Identity("user")), Identity("user").seed)


def _account_key(operator: Operator) -> str:
    return operator.write("file", operator.user_jwt(Identity("user")), Identity("account").seed)


def _wrong_letter(operator: Operator) -> str:
    user = Identity("user")
    seed = user.seed[:10] + ("A" if user.seed[10] != "A" else "B") + user.seed[11:]
    return operator.write("file", operator.user_jwt(user), seed)


def _no_jwt(operator: Operator) -> str:
    return operator.write("file", "a.b", Identity("user").seed)


def _no_key(operator: Operator) -> str:
    path = Path(operator.issue("file"))
    path.write_text(re.sub(r"-----BEGIN USER NKEY SEED-----\n.*\n", "", path.read_text()))
    return str(path)


def _empty(operator: Operator) -> str:
    path = Path(operator.issue("file"))
    path.write_text("")
    return str(path)


def _no_text(operator: Operator) -> str:
    path = Path(operator.issue("file"))
    path.write_bytes(b"\xff\xfe")
    return str(path)


def _absent(operator: Operator) -> str:
    path = operator.issue("file")
    operator.withdraw(path)
    return path


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (_other_key, "not the one that its JWT was issued for"),
        (_account_key, "its key is not a user's"),
        (_wrong_letter, "its key cannot be read"),
        (_no_jwt, "its JWT cannot be read"),
        (_no_key, "no section USER NKEY SEED"),
        (_empty, "no section USER JWT"),
        (_no_text, "it is no text"),
        (_absent, "cannot be read"),
    ],
)
async def test_a_file_that_cannot_work_is_refused_unsent(
    spoil: Callable[[Operator], str], problem: str, tmp_path: Path
) -> None:
    """A damaged file is refused by name before any server is asked, without a word of its secret."""
    path = spoil(Operator(tmp_path))
    with pytest.raises(ConfigurationInvalid, match=problem) as refused:
        await connect(BusSettings(credentials_file=path), name="login")
    assert refused.value.key == KEY
    assert "SU" not in str(refused.value).replace(path, "")


async def _until(bus: Bus, *, connected: bool) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while bus.connected is not connected:  # noqa: ASYNC110 - the port has no event for it
            await asyncio.sleep(0.01)


async def test_a_user_that_expires_comes_back_with_a_renewed_file(
    server: tuple[Operator, OperatedNats],
) -> None:
    """The server ends the connection when a user expires; the next login takes what the file holds by then.

    In between the file may be gone for a moment: that is tried again after, like any lost connection.
    """
    operator, nats = server
    path = operator.issue("user", lives_s=2)
    bus = await connect(BusSettings(url=nats.url, credentials_file=path), name="login")
    try:
        operator.withdraw(path)
        async with bus.watch_fleet() as changes:
            await _until(bus, connected=False)
            operator.issue("user")
            await _until(bus, connected=True)
            await bus.announce(status("w"), ttl_s=5)
            assert await take(changes, 1) == [seen("w")]
    finally:
        await bus.close()
