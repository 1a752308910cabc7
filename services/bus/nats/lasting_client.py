"""A NATS client that never gives up by itself.

Comes in: the server's errors. Goes out: reconnects, each with a login of its own.
Invariant: only `close` closes it, and it does so whatever became of the connection. nats-py 2.16 closes for
ever at most errors of the server (a user that expired, a changed password, too many connections); a process
would be without a bus until it is restarted. Not here: who logs in (`services.bus.nats.credentials`).
"""

import nats.errors
from nats.aio.client import Client

_ABOUT_ONE_SUBJECT = "permissions violation"
"""The one error of the server that leaves the connection open."""


class LastingClient(Client):
    """A client that takes every error of the server for a lost connection."""

    async def _process_err(self, err_msg: str) -> None:
        if _ABOUT_ONE_SUBJECT in err_msg.lower():
            await super()._process_err(err_msg)
        else:
            error = nats.errors.Error(f"nats: {err_msg}")
            await self._error_cb(error)
            await self._process_op_err(error)

    async def close(self) -> None:
        """Close. What could not be sent any more is dropped.

        nats-py sends it before it cleans up, and where the connection broke in that moment it raises there
        (uvloop a `RuntimeError`) and leaves its tasks behind.
        """
        try:
            await super().close()
        except (OSError, RuntimeError):
            self._pending, self._pending_data_size = [], 0
            self._status = Client.DISCONNECTED
            await super().close()
