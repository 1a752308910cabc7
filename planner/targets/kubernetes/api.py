"""Requests to the Kubernetes API server.

Comes in: method, path, body. Goes out: the answer's body, or lines of a watch. Invariants: a request is tried
at most `tries_max` times and each try ends after `request_timeout_s`; no more than `requests_per_s` are sent
for long; the account's token is read for each try, since Kubernetes replaces it. Not here: what is asked for.
"""

import asyncio
import math
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path

import httpx
import msgspec

from planner.targets.kubernetes.objects import Status
from planner.targets.kubernetes.settings import KubernetesSettings
from planner.targets.port import TargetUnavailable
from services.domain.errors import ConfigurationInvalid

RETRY_MAX_S = 10.0
"""Longest pause between two tries, whatever the server asks for; seconds."""
_TRY_AGAIN = frozenset({401, 429, 500, 502, 503, 504})  # 401: the token was replaced while we read it
_MERGE = "application/merge-patch+json"


class Conflict(TargetUnavailable):
    """Somebody else wrote first (409)."""


class Gone(TargetUnavailable):
    """The version to watch from is too old (410): list again."""


class Api:
    """One connection pool, with the service account's identity."""

    def __init__(
        self,
        settings: KubernetesSettings,
        *,
        now_s: Callable[[], float],
        client: httpx.AsyncClient | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            settings: where the API is, and how patient to be.
            now_s: the planner's clock.
            client: to the API server; None makes one with the service account's authorities.

        Raises:
            ConfigurationInvalid: the authorities' file holds no certificate.
        """
        self._settings = settings
        self._now_s = now_s
        self._next_s = -math.inf
        self._client = client or httpx.AsyncClient(
            base_url=settings.api_url,
            timeout=settings.request_timeout_s,
            verify=_trust(settings.ca_file),
        )

    async def ask(
        self, method: str, path: str, body: object | None = None, *, query: Mapping[str, str] | None = None
    ) -> bytes:
        """Ask, as often as the settings allow, and return the answer's body.

        Raises:
            Conflict: 409.
            Gone: 410.
            TargetUnavailable: refused, or no answer.
        """
        pause_s = self._settings.retry_s
        content = None if body is None else msgspec.json.encode(body)
        for left in reversed(range(self._settings.tries_max)):
            await self._turn()
            try:
                answer = await self._client.request(
                    method, f"/{path}", params=query, content=content, headers=self._headers(method)
                )
            except httpx.HTTPError as error:
                if left == 0:
                    raise TargetUnavailable(f"{method} {path}: {error!r}") from None
            else:
                if answer.is_success:
                    return answer.content
                if answer.status_code not in _TRY_AGAIN or left == 0:
                    raise refusal(answer.status_code, f"{method} {path}", _said(answer))
                pause_s = max(pause_s, _retry_after_s(answer))
            await asyncio.sleep(min(pause_s, RETRY_MAX_S))
            pause_s *= 2
        raise TargetUnavailable(f"{method} {path}: no try is left")

    async def watch(
        self, path: str, query: Mapping[str, str], *, silence_s: float
    ) -> AsyncGenerator[bytes, None]:
        """Open a watch, once, and yield its lines until the server ends it.

        Args:
            path: of the collection.
            query: of the watch.
            silence_s: time without a line after which the connection counts as lost, s.

        Raises:
            Gone: 410 instead of a stream.
            TargetUnavailable: refused, or the connection is lost.
        """
        patience = httpx.Timeout(self._settings.request_timeout_s, read=silence_s)
        await self._turn()
        try:
            async with self._client.stream(
                "GET", f"/{path}", params=query, headers=self._headers("GET"), timeout=patience
            ) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise refusal(answer.status_code, f"watch {path}", _said(answer))
                async for line in answer.aiter_lines():
                    if line:
                        yield line.encode()
        except httpx.HTTPError as error:
            raise TargetUnavailable(f"watch {path}: {error!r}") from None

    async def close(self) -> None:
        """Close connections; idempotent."""
        await self._client.aclose()

    async def _turn(self) -> None:
        """Wait for one's turn: a burst goes at once, what is more than the rate waits."""
        settings, now_s = self._settings, self._now_s()
        gap_s = 1.0 / settings.requests_per_s
        self._next_s = max(self._next_s, now_s - gap_s * settings.requests_burst) + gap_s
        if self._next_s > now_s:
            await asyncio.sleep(self._next_s - now_s)

    def _headers(self, method: str) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if method != "GET":
            headers["Content-Type"] = _MERGE if method == "PATCH" else "application/json"
        file = Path(self._settings.token_file)
        try:
            headers["Authorization"] = f"Bearer {file.read_text(encoding='utf-8').strip()}"
        except FileNotFoundError:
            pass  # outside a pod: a server that asks for none
        except OSError as error:
            raise TargetUnavailable(f"the token cannot be read: {error}") from None
        return headers


def refusal(code: int, what: str, said: str) -> TargetUnavailable:
    """Make the error of an answer that is no success."""
    return {409: Conflict, 410: Gone}.get(code, TargetUnavailable)(f"{what}: {code} {said}")


def _said(answer: httpx.Response) -> str:
    """Find the server's words in an answer that was read."""
    try:
        return msgspec.json.decode(answer.content, type=Status).message
    except msgspec.MsgspecError:
        return answer.text[:200]


def _trust(ca_file: str) -> ssl.SSLContext:
    """Trust the service account's authorities, or the system's where there are none."""
    try:
        return ssl.create_default_context(cafile=ca_file if Path(ca_file).exists() else None)
    except ssl.SSLError as error:
        raise ConfigurationInvalid(
            key="target.ca_file", message=f"target.ca_file: {ca_file}: {error}"
        ) from None


def _retry_after_s(answer: httpx.Response) -> float:
    try:
        return max(0.0, float(answer.headers.get("Retry-After", "0")))
    except ValueError:
        return 0.0
