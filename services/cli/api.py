"""A client of one gateway for the subcommands: HTTP and server-sent events, errors in words.

Comes in: a base URL. Goes out: decoded JSON and streamed pieces; a gateway that cannot be reached or
answers with an error becomes a `ServingError` that says what to do.
"""

import argparse
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import httpx
import msgspec

from services.domain.errors import ConfigurationInvalid, InternalFault, InvalidRequest, NotReady, ServingError

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE = "BATON_URL"
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 600.0


def add_gateway(command: argparse.ArgumentParser) -> None:
    """Add the options that say which gateway to talk to, and whom to trust; they are called as curl's."""
    command.add_argument(
        "--url",
        default=os.environ.get(URL_VARIABLE, DEFAULT_URL),
        help=f"gateway to talk to (default: ${URL_VARIABLE} or {DEFAULT_URL})",
    )
    for option, meaning in (
        ("cacert", "authorities that sign the gateway; default: $BATON_CACERT or the system's"),
        ("cert", "own certificate, where the gateway asks for one; default: $BATON_CERT"),
        ("key", "its private key, unless it is in the same file; default: $BATON_KEY"),
    ):
        default = os.environ.get(f"BATON_{option.upper()}")
        command.add_argument(f"--{option}", default=default, metavar="FILE", help=f"PEM file: {meaning}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One server-sent event of a stream."""

    request_id: str
    data: bytes


class GatewayClient:
    """Talks to one gateway."""

    def __init__(self, url: str, trust: ssl.SSLContext | None = None) -> None:
        """Prepare; nothing is sent yet.

        Args:
            url: of the gateway.
            trust: whom to trust, for https.
        """
        self._url = url.rstrip("/")
        self._http = httpx.Client(
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=False,
            verify=trust or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # which trusts nobody
        )

    @classmethod
    def of(cls, options: argparse.Namespace) -> Self:
        """Make a client of the gateway that the options of `add_gateway` name.

        Raises:
            ConfigurationInvalid: a certificate file cannot be used.
        """
        encrypted = options.url.startswith("https:")
        return cls(options.url, _trust(options.cacert, options.cert, options.key) if encrypted else None)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def get(self, path: str) -> bytes:
        """Fetch a JSON document.

        Raises:
            ServingError: the gateway cannot be reached or answered with an error.
        """
        try:
            response = self._http.get(self._url + path)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if response.is_error:
            raise _as_error(response)
        return response.content

    def stream(self, path: str, body: dict[str, object]) -> Iterator[Piece]:
        """Post a request and iterate over the events of its answer, without the closing `[DONE]`.

        Raises:
            ServingError: as `get`; also when the stream breaks before its end.
        """
        try:
            with self._http.stream("POST", self._url + path, json=body) as response:
                if response.is_error:
                    response.read()
                    raise _as_error(response)
                request_id = response.headers.get("x-request-id", "")
                for line in response.iter_lines():
                    if not line.startswith("data: "):
                        continue
                    data = line.removeprefix("data: ")
                    if data == "[DONE]":
                        return
                    yield Piece(request_id=request_id, data=data.encode())
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        raise InternalFault(message="the stream ended without its closing event")

    def _unreachable(self, error: httpx.HTTPError) -> ServingError:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return InvalidRequest(
                message=f"{self._url} is not trusted: {error}; name who signed it with --cacert"
            )
        if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
            return InvalidRequest(
                message=f"{self._url} hung up ({error}): a gateway with TLS does so on http:// and, where it "
                "asks clients for a certificate, on those without (--cert)"
            )
        return NotReady(
            message=f"no gateway answers at {self._url} ({error}); start one with `baton up`, "
            f"or name another with --url",
            retry_after_s=1.0,
        )


def _trust(cacert: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=cacert)
    except OSError as error:
        raise ConfigurationInvalid(key="--cacert", message=f"--cacert: {cacert}: {error}") from None
    if cert is not None:
        try:
            context.load_cert_chain(cert, key)
        except OSError as error:
            raise ConfigurationInvalid(key="--cert", message=f"--cert, --key: {cert}: {error}") from None
    return context


def _as_error(response: httpx.Response) -> ServingError:
    try:
        body = msgspec.json.decode(response.content, type=dict[str, dict[str, object]])
        message = str(body["error"]["message"])
    except (msgspec.MsgspecError, KeyError):
        message = response.text[:200]
    return InvalidRequest(message=f"the gateway answered {response.status_code}: {message}")
