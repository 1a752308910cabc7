"""The HTTP server: a listening socket, its connections, and how they end.

Comes in: an ASGI application. Goes out: served connections.
Invariant: after `stop` no connection, no task of one and no socket is left, but for handshakes that have not
ended: their timer ends those. No signal handler is touched: whoever runs the process owns its signals, which
is why uvicorn's own `Server` is not used.
"""

import asyncio
import errno
import ssl
from typing import Literal

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.server import ServerState

from services.domain.errors import ConfigurationInvalid
from services.gateway.edge.http_protocol import BoundedHttpProtocol, ConnectionBounds, with_bounds
from services.gateway.edge.settings import EdgeSettings

_BACKLOG = 2048
"""Connections the system keeps while the loop is busy; a burst of clients that start together."""

_GOODBYE_S = 5.0
"""Longest wait for a client to confirm the end of an encrypted connection."""


class HttpServer:
    """Serves one application on one port."""

    def __init__(
        self,
        app: ASGIApp,
        settings: EdgeSettings,
        *,
        port_key: Literal["http_port", "metrics_port"] = "http_port",
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare; nothing listens yet.

        Args:
            app: what is served.
            settings: address and bounds.
            port_key: which setting names the port.
            context: encryption; None speaks in the clear.
        """
        self._settings = settings
        self._port_key = port_key
        self._context = context
        protocol = with_bounds(
            ConnectionBounds(
                head_bytes_max=settings.head_bytes_max,
                head_timeout_s=settings.head_timeout_s,
                stalled_write_timeout_s=settings.stalled_write_timeout_s,
                connections_max=settings.connections_max,
            )
        )
        self._protocol: type[BoundedHttpProtocol] = protocol
        self._config = Config(
            app,
            interface="asgi3",
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=max(1, round(settings.idle_timeout_s)),
        )
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen; give back the port.

        Raises:
            ConfigurationInvalid: the address cannot be had.
        """
        self._config.load()
        loop = asyncio.get_running_loop()
        host = self._settings.host
        port: int = getattr(self._settings, self._port_key)
        try:
            self._server = await loop.create_server(
                lambda: self._protocol(self._config, self._state, {}),
                host,
                port,
                backlog=_BACKLOG,
                ssl=self._context,
                ssl_handshake_timeout=self._settings.head_timeout_s if self._context else None,
                ssl_shutdown_timeout=_GOODBYE_S if self._context else None,
            )
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            key = f"edge.{self._port_key}" if in_use else "edge.host"
            raise ConfigurationInvalid(
                key=key, message=f"{key}: cannot listen on {host}:{port}: {error.strerror or error}"
            ) from None
        chosen: int = self._server.sockets[0].getsockname()[1]
        return chosen

    async def drain(self, timeout_s: float) -> bool:
        """Accept nothing new, close idle connections, wait for the rest.

        Returns:
            Whether all calls ended in time.
        """
        if self._server is not None:
            self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        tasks = set(self._state.tasks)
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=timeout_s)
        return not tasks

    async def stop(self) -> None:
        """End everything now; calls in progress are cancelled and their connections cut."""
        if self._server is not None:
            self._server.close()
        tasks = set(self._state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._settings.stalled_write_timeout_s)
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
