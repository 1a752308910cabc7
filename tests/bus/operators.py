"""A NATS operator of our own: accounts and users as signed JWTs, and the server that trusts them.

Written from the description of NATS JWTs (docs.nats.io, "JWT in depth", version 2 claims).
"""

import base64
import binascii
import hashlib
import json
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.bus.embedded import EmbeddedNats

_KINDS = {"operator": 14 << 3, "account": 0, "user": 20 << 3}
_SEED = 18 << 3


def _encode(data: bytes) -> str:
    checksum = binascii.crc_hqx(data, 0).to_bytes(2, "little")
    return base64.b32encode(data + checksum).decode().rstrip("=")


def _part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Identity:
    """A key pair of one kind."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._key = Ed25519PrivateKey.generate()
        self.public = _encode(bytes([_KINDS[kind]]) + self._key.public_key().public_bytes_raw())

    @property
    def seed(self) -> str:
        """The private key as nkeys writes it."""
        kind = _KINDS[self._kind]
        return _encode(bytes([_SEED | kind >> 5, (kind & 31) << 3]) + self._key.private_bytes_raw())

    def sign(self, subject: "Identity", claims: dict[str, object], *, exp: int | None = None) -> str:
        """Issue a JWT about somebody, or about ourselves."""
        body: dict[str, object] = {
            "iat": int(time.time()),
            "iss": self.public,
            "name": subject._kind,
            "sub": subject.public,
            "nats": {"type": subject._kind, "version": 2, **claims},
        }
        if exp is not None:
            body["exp"] = exp
        digest = hashlib.sha256(json.dumps(body).encode()).digest()
        body["jti"] = base64.b32encode(digest).decode().rstrip("=")
        signed = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(body)}"
        return f"{signed}.{_part(self._key.sign(signed.encode()))}"


class Operator:
    """An operator with one account for its system and one, with JetStream, for Baton."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._operator, self._system, self._account = (
            Identity("operator"),
            Identity("account"),
            Identity("account"),
        )

    def trusted(self) -> dict[str, object]:
        """What a server's configuration must say to trust us."""
        limits = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": True,
                  "conn": -1, "leaf": -1}  # fmt: skip
        storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        return {
            "operator": self._operator.sign(self._operator, {"system_account": self._system.public}),
            "system_account": self._system.public,
            "resolver": "MEMORY",
            "resolver_preload": {
                self._system.public: self._operator.sign(self._system, {"limits": limits}),
                self._account.public: self._operator.sign(self._account, {"limits": limits | storage}),
            },
        }

    def issue(self, name: str, *, lives_s: int | None = None) -> str:
        """Write a credentials file for a new user of Baton's account; returns its path.

        Args:
            name: of the file.
            lives_s: seconds until it expires, negative for one that has; None never expires.
        """
        user = Identity("user")
        return self.write(name, self.user_jwt(user, lives_s=lives_s), user.seed)

    def user_jwt(self, user: Identity, *, lives_s: int | None = None) -> str:
        """Issue the JWT of a user."""
        exp = None if lives_s is None else int(time.time()) + lives_s
        return self._account.sign(
            user, {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}, exp=exp
        )

    def write(self, name: str, jwt: str, seed: str) -> str:
        """Write a credentials file as it is usually laid out; returns its path."""
        path = self._folder / f"{name}.creds"
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            "NKEY Seed printed below can be used to sign and prove identity.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
        return str(path)

    def withdraw(self, path: str) -> None:
        """Delete a credentials file."""
        Path(path).unlink()


class OperatedNats(EmbeddedNats):
    """The embedded server, trusting an operator instead of a password."""

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self._operator = operator

    def _config(self, folder: Path, log: Path) -> dict[str, object]:
        return super()._config(folder, log) | self._operator.trusted()
