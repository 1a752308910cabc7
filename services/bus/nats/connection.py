"""One client connection to NATS: login, reconnecting for ever, and one way to ask.

Comes in: settings; requests of the bus's parts. Goes out: confirmed answers or `BusUnavailable`.
Invariant: while the server is away every request fails at once and none is kept for later; after each
reconnect those who watch are told. Not here: streams and subjects.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.client import Server as KnownServer
from nats.js import JetStreamContext

from services.bus.nats.credentials import KEY as CREDENTIALS_KEY
from services.bus.nats.credentials import Credentials
from services.bus.nats.lasting_client import LastingClient
from services.bus.settings import BusSettings, TlsSettings, read_secret
from services.domain.errors import BusUnavailable, ConfigurationInvalid

log = logging.getLogger(__name__)

T = TypeVar("T")

SERVER_VERSION_MIN = (2, 11)
"""First nats-server with a time to live per message and markers for removed subjects."""

_RETRY_MIN_S = 0.05

PERMANENT = (nats.errors.AuthorizationError, ssl.SSLCertVerificationError, nats.errors.SecureConnWantedError)
"""Errors that no further try can mend."""

_UNAUTHORIZED = "authorization violation"
"""What the server answers to a wrong login; while connecting the client raises it without a type."""

AWAY = (
    TimeoutError,
    OSError,
    nats.errors.Error,
    nats.js.errors.NoStreamResponseError,
    nats.js.errors.ServiceUnavailableError,
    nats.js.errors.ServerError,
)
"""What the client raises when the server does not answer or cannot serve."""


@contextmanager
def kept_cancellation() -> Iterator[None]:
    """Raise a cancellation that came while the client was asked, even if the client lost it.

    The client waits with `asyncio.wait_for`, which in Python 3.11 loses a cancellation that comes in the
    same moment as the answer, whether that is a value or an error.
    """
    caller = asyncio.current_task()
    cancels = 0 if caller is None else caller.cancelling()
    try:
        yield
    finally:
        if caller is not None and caller.cancelling() > cancels:
            raise asyncio.CancelledError


class Connection:
    """A connected client; `open_connection` makes it."""

    def __init__(self, settings: BusSettings, client: Client) -> None:
        self.settings = settings
        self.client = client
        self.jetstream: JetStreamContext = client.jetstream(timeout=settings.request_timeout_s)
        self._listeners: list[Callable[[], None]] = []

    @property
    def connected(self) -> bool:
        """Whether the server answers, as far as is known now."""
        return self.client.is_connected

    @property
    def message_bytes_max(self) -> int:
        """Largest message that the server takes, headers included."""
        return self.client.max_payload

    def check(self) -> None:
        """Fail now rather than wait.

        Raises:
            BusUnavailable: the server is away.
        """
        if not self.connected:
            raise BusUnavailable(message=f"NATS at {self.settings.url} does not answer")

    async def ask(self, request: Callable[[JetStreamContext], Awaitable[T]]) -> T:
        """Send one request and wait for its answer.

        Raises:
            BusUnavailable: there was none in time.
            nats.js.errors.APIError: the server refused, in a way that the caller must judge.
        """
        self.check()
        try:
            with kept_cancellation():
                async with asyncio.timeout(self.settings.request_timeout_s):
                    return await request(self.jetstream)
        except nats.js.errors.ServiceUnavailableError as error:
            if error.err_code is not None:
                raise
            raise BusUnavailable(message=f"NATS cannot serve: {error}") from error
        except nats.js.errors.APIError:
            raise
        except AWAY as error:
            raise BusUnavailable(message=f"NATS did not confirm: {error!r}") from error

    async def settle(self) -> None:
        """Wait until the server has handled everything sent so far, as far as it can be reached.

        The client's own `flush` does not tell: its PING overtakes commands that are still buffered
        (nats-py 2.16). A request that nobody answers does not, and comes back at once.
        """
        try:
            with kept_cancellation():
                async with asyncio.timeout(self.settings.request_timeout_s):
                    await self.client.request(
                        self.client.new_inbox(), timeout=self.settings.request_timeout_s
                    )
        except AWAY as error:
            log.debug("settled by %r", error)

    def on_reconnect(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a function after each reconnect; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def tell_reconnected(self) -> None:
        """Call the listeners."""
        log.info("NATS answers again")
        for listener in list(self._listeners):
            listener()

    async def close(self) -> None:
        """Leave the server; idempotent. A connection that breaks in the same moment is as good as closed."""
        if not self.client.is_closed:
            await self.client.close()


async def open_connection(settings: BusSettings, *, name: str) -> Connection:
    """Connect and log in.

    Args:
        settings: where and as whom.
        name: of this process, shown in the server's list of clients.

    Raises:
        BusUnavailable: no server answered within `connect_timeout_s`.
        ConfigurationInvalid: the login or the certificate is refused, or the server is too old.
    """
    client = LastingClient()
    connection = Connection(settings, client)
    refused: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    last: list[Exception] = []

    async def on_error(error: Exception) -> None:
        last[:] = [error]
        permanent = isinstance(error, PERMANENT) or _UNAUTHORIZED in str(error).lower()
        if permanent and not refused.done():
            refused.set_result(error)
        elif permanent:
            log.warning("%s", _refusal(settings, login, error))
        log.debug("NATS client: %r", error)

    async def on_disconnect() -> None:
        if not client.is_closed:
            log.warning("NATS at %s is away", settings.url)

    async def on_reconnect() -> None:
        connection.tell_reconnected()

    def choose(known: list[KnownServer], info: dict[str, object]) -> tuple[KnownServer, float]:
        del info
        server = min(known, key=lambda s: s.reconnects)
        wait_s: float = _RETRY_MIN_S * 2 ** min(server.reconnects, 16)
        return server, min(wait_s, settings.reconnect_wait_max_s)

    login = _login(settings)
    connecting = asyncio.ensure_future(
        client.connect(
            servers=[url.strip() for url in settings.url.split(",")],
            name=name,
            error_cb=on_error,
            disconnected_cb=on_disconnect,
            reconnected_cb=on_reconnect,
            reconnect_to_server_handler=choose,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            connect_timeout=max(1, round(settings.connect_timeout_s)),
            ping_interval=max(1, round(2 * settings.heartbeat_s)),
            pending_size=settings.publish_buffer_bytes,
            user=login.user,
            password=login.password,
            token=login.token,
            user_jwt_cb=None if login.credentials is None else login.credentials.jwt,
            signature_cb=None if login.credentials is None else login.credentials.sign,
            tls=None if settings.tls is None else _tls_context(settings.tls),
            tls_hostname=None if settings.tls is None else settings.tls.server_name,
        )
    )
    first: set[asyncio.Future[Any]] = {connecting, refused}
    await asyncio.wait(first, timeout=settings.connect_timeout_s, return_when=asyncio.FIRST_COMPLETED)
    if connecting.done() and not refused.done():
        connecting.result()
        refused.cancel()  # from now on a refusal is only told, and tried again after
    else:
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        await connection.close()
        if refused.done():
            raise _refusal(settings, login, refused.result())
        cause = f": {last[0]!r}" if last else ""
        raise BusUnavailable(message=f"no NATS server answers at {settings.url}{cause}")
    version = client.connected_server_version
    if (version.major, version.minor) < SERVER_VERSION_MIN:
        await connection.close()
        raise ConfigurationInvalid(
            key="bus.url",
            message=f"nats-server at {settings.url} is {version.major}.{version.minor}, "
            f"Baton needs {SERVER_VERSION_MIN[0]}.{SERVER_VERSION_MIN[1]} or newer",
        )
    return connection


class _Login:
    """Secrets, read from the environment or a file at the last moment."""

    def __init__(
        self, user: str | None, password: str | None, token: str | None, credentials: Credentials | None
    ) -> None:
        self.user = user
        self.password = password
        self.token = token
        self.credentials = credentials


def _login(settings: BusSettings) -> _Login:
    return _Login(
        settings.user,
        settings.password_env and read_secret("bus.password_env", settings.password_env),
        settings.token_env and read_secret("bus.token_env", settings.token_env),
        None if settings.credentials_file is None else Credentials(settings.credentials_file),
    )


def _refusal(settings: BusSettings, login: _Login, error: Exception) -> ConfigurationInvalid:
    message = f"NATS at {settings.url} refuses us: {error}"
    if login.credentials is None or isinstance(error, ssl.SSLError | nats.errors.SecureConnWantedError):
        return ConfigurationInvalid(key="bus", message=message)
    return ConfigurationInvalid(key=CREDENTIALS_KEY, message=f"{message}; {login.credentials.suspicion()}")


def _tls_context(tls: TlsSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationInvalid(
            key="bus.tls", message=f"the files of bus.tls cannot be used: {error}"
        ) from None
    return context
