"""Logging in with a NATS credentials file: a user's JWT and the Ed25519 key that proves it is ours.

Comes in: the file's path. Goes out: the JWT, signatures of the server's nonce, why a login may be refused.
Invariant: a file that cannot work is refused by the name of its setting before anything is sent; the key
stays in the file and is read anew for each login, so that renewed credentials serve the next reconnect.
Not here: whether the server accepts the user, and until when (only its clock counts).

Formats: the file as `nsc generate creds` writes it; keys as github.com/nats-io/nkeys encodes them: base32
without padding of prefix bytes, 32 bytes of key, CRC-16/XMODEM in little-endian order.
"""

import base64
import binascii
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import nats.errors
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.domain.errors import ConfigurationInvalid

KEY = "bus.credentials_file"

_BYTES_MAX = 64 * 1024
_SEED_PREFIX = 18 << 3
"""First five bits of a seed, the letter S; the eight bits behind them are the kind of key."""
_USER_PREFIX = 20 << 3
"""A user's key, the letter U."""
_CHECKSUM_BYTES = 2


class _Claims(msgspec.Struct, frozen=True):
    """What we read of a user JWT (RFC 7519); everything else is the server's business."""

    sub: str
    """The user's public key."""
    exp: float | None = None
    """When it ends, seconds since 1970; None or 0 never."""


class Credentials:
    """One credentials file, read at each login."""

    def __init__(self, path: str) -> None:
        """Read the file once, so that a wrong one is refused now.

        Raises:
            ConfigurationInvalid: it cannot be read, or its JWT and its key do not belong together.
        """
        self._path = Path(path)
        claims, key = self._claims(), self._private_key()
        if claims.sub != public_key(key):
            raise self._invalid("its key is not the one that its JWT was issued for")

    def jwt(self) -> bytes:
        """The user's JWT.

        Raises:
            nats.errors.InvalidUserCredentialsError: the file has none now.
        """
        with _later_again():
            return self._section("USER JWT").encode()

    def sign(self, nonce: str) -> bytes:
        """Prove that we hold the key: base64 of the nonce's signature.

        Raises:
            nats.errors.InvalidUserCredentialsError: the file has no usable key now.
        """
        with _later_again():
            return base64.b64encode(self._private_key().sign(nonce.encode()))

    def suspicion(self) -> str:
        """Say what may be the matter with refused credentials, as far as it can be known here."""
        try:
            expires_s = self._claims().exp
        except ConfigurationInvalid as error:
            return error.message
        if expires_s and expires_s <= time.time():
            return f"{KEY} {self._path} expired {time.time() - expires_s:.0f} s ago by this machine's clock"
        return f"{KEY} {self._path} has not expired: does the server know its account?"

    def _claims(self) -> _Claims:
        parts = self._section("USER JWT").split(".")
        try:
            payload = parts[1]
            return msgspec.json.decode(
                base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=_Claims
            )
        except (IndexError, ValueError):
            raise self._invalid("its JWT cannot be read") from None

    def _private_key(self) -> Ed25519PrivateKey:
        data = _decode_key(self._section("USER NKEY SEED"))
        if data is None or len(data) != 34 or data[0] & 0xF8 != _SEED_PREFIX:
            raise self._invalid("its key cannot be read")
        if (data[0] & 7) << 5 | data[1] >> 3 != _USER_PREFIX:
            raise self._invalid("its key is not a user's")
        return Ed25519PrivateKey.from_private_bytes(data[2:])

    def _section(self, title: str) -> str:
        """The line below the heading that begins a section.

        The error never quotes the file: it holds a secret.
        """
        try:
            with self._path.open(encoding="ascii") as file:
                lines = [line.strip() for line in file.read(_BYTES_MAX).splitlines()]
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise self._invalid(f"it cannot be read: {reason}") from None
        for heading, line in itertools.pairwise(lines):
            if heading.startswith("---") and "BEGIN" in heading and title in heading and line:
                return line
        raise self._invalid(f"it has no section {title}")

    def _invalid(self, problem: str) -> ConfigurationInvalid:
        return ConfigurationInvalid(key=KEY, message=f"{KEY} {self._path}: {problem}")


@contextmanager
def _later_again() -> Iterator[None]:
    """Give the client an error that it tries again after: the file may be half-written just now."""
    try:
        yield
    except ConfigurationInvalid as error:
        raise nats.errors.InvalidUserCredentialsError from error


def public_key(key: Ed25519PrivateKey) -> str:
    """Write a user's public key as its JWT names it."""
    data = bytes([_USER_PREFIX]) + key.public_key().public_bytes_raw()
    checksum = binascii.crc_hqx(data, 0).to_bytes(_CHECKSUM_BYTES, "little")
    return base64.b32encode(data + checksum).decode().rstrip("=")


def _decode_key(text: str) -> bytes | None:
    """Prefix and key of an encoded key; None when it is none or a letter of it is wrong."""
    try:
        data = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        return None
    body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    return body if checksum == binascii.crc_hqx(body, 0).to_bytes(_CHECKSUM_BYTES, "little") else None
