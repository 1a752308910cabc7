"""What a listener shows and whom it trusts, from files that may be replaced at any time.

Comes in: paths of PEM files, looked at before each handshake and each reading of metrics. Goes out: a
`Credentials` value.
Invariant: a value that goes out was checked, so that a handshake with it can succeed: its key is that of its
certificate. Files that fail the check refuse the start; later they are told, and what was read before stays.
Not here: who shows it (`services.link.transport` for gRPC, `services.gateway.edge.encryption`).
"""

import logging
import math
import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.domain.errors import ConfigurationInvalid
from services.runtime.metrics import Meters

log = logging.getLogger(__name__)

RENEWALS = "baton_certificate_renewals_total"
RETRY_S = 60.0
"""Pause before refused files are tried again as they are: it may have been the reading that failed."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PemFile:
    """One file, and the setting that names it."""

    key: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialFiles:
    """Where credentials are read from.

    Attributes:
        certificate: chain, the own certificate first.
        private_key: of the own certificate, without a passphrase.
        authorities: those who sign the other side, of whom a certificate is demanded; None demands none.
    """

    certificate: PemFile
    private_key: PemFile
    authorities: PemFile | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Files as they were read, all PEM.

    Attributes:
        chain: the own certificate first.
        private_key: its key.
        authorities: those who sign the other side; None where none is demanded.
        expires_at_s: end of the own certificate, seconds since 1970.
        context: the same for a server of the `ssl` module.
    """

    chain: bytes
    private_key: bytes
    authorities: bytes | None
    expires_at_s: float
    context: ssl.SSLContext


class LiveCredentials:
    """Credentials that follow their files; may be asked in any thread.

    Sets `baton_certificate_expiry_timestamp_seconds` and counts `baton_certificate_renewals_total`.
    """

    def __init__(
        self,
        files: CredentialFiles,
        *,
        listener: str,
        meters: Meters | None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the files for the first time.

        Args:
            files: to read and to watch.
            listener: who shows them, a label of metrics.
            meters: of this process.
            now_s: clock; not the loop's, since handshakes of gRPC are in threads of its own.

        Raises:
            ConfigurationInvalid: a file cannot be read, is not what it should be, or two do not fit.
        """
        self._files = files
        self._listener = listener
        self._meters = meters
        self._now_s = now_s
        self._retry_at_s = math.inf
        self._lock = threading.Lock()
        self._state = _state(files)
        self._current = self._taken(_read(files))
        if meters is not None:
            for outcome in ("taken", "refused"):  # a counter that begins at 1 shows no increase
                meters.count(RENEWALS, 0.0, listener=listener, outcome=outcome)
            meters.look_before_rendering(self.current)

    def current(self) -> Credentials:
        """Give what the files hold; the same object until they change to something that can be used."""
        with self._lock:
            state = _state(self._files)
            if state != self._state or self._now_s() >= self._retry_at_s:
                self._state = state  # from before the reading: what changes meanwhile is read next time
                self._renew()
            return self._current

    def _renew(self) -> None:
        try:
            self._current = self._taken(_read(self._files))
            log.info("%s: new certificate read", self._listener)
            outcome, self._retry_at_s = "taken", math.inf
        except (ConfigurationInvalid, OSError) as error:
            log.error("%s: the certificate before it is kept: %s", self._listener, error)
            outcome, self._retry_at_s = "refused", self._now_s() + RETRY_S
        if self._meters is not None:
            self._meters.count(RENEWALS, listener=self._listener, outcome=outcome)

    def _taken(self, found: Credentials) -> Credentials:
        if self._meters is not None:
            self._meters.set(
                "baton_certificate_expiry_timestamp_seconds", found.expires_at_s, listener=self._listener
            )
        return found


def _state(files: CredentialFiles) -> tuple[tuple[int, int, int] | None, ...]:
    """Say which files these are now, through links: Kubernetes replaces a folder of them by one link."""
    return tuple(
        None if file is None else _stamp(file.path)
        for file in (files.certificate, files.private_key, files.authorities)
    )


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(files: CredentialFiles) -> Credentials:
    chain = _bytes(files.certificate)
    private_key = _bytes(files.private_key)
    certificates = _parsed(files.certificate, lambda: x509.load_pem_x509_certificates(chain))
    key = _parsed(files.private_key, lambda: load_pem_private_key(private_key, password=None))
    if key.public_key() != certificates[0].public_key():
        raise _invalid(files.private_key, f"is not the key of {files.certificate.path}")
    authorities = None
    if files.authorities is not None:
        trusted = authorities = _bytes(files.authorities)
        _parsed(files.authorities, lambda: x509.load_pem_x509_certificates(trusted))
    return Credentials(
        chain=chain,
        private_key=private_key,
        authorities=authorities,
        expires_at_s=certificates[0].not_valid_after_utc.timestamp(),
        context=_parsed(files.certificate, lambda: _context(chain, private_key, authorities)),
    )


def _context(chain: bytes, private_key: bytes, authorities: bytes | None) -> ssl.SSLContext:
    """Make a server's context; the library takes a chain from a file only, so one is made in memory."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with os.fdopen(os.memfd_create("certificate"), "wb", buffering=0) as file:
        file.write(chain + b"\n" + private_key)
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    if authorities is not None:
        context.load_verify_locations(cadata=authorities.decode("ascii"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _bytes(file: PemFile) -> bytes:
    try:
        return Path(file.path).read_bytes()
    except OSError as error:
        raise _invalid(file, error.strerror or str(error)) from None


def _parsed(file: PemFile, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except TypeError:
        raise _invalid(file, "has a passphrase; give a key without one") from None
    except (ValueError, UnsupportedAlgorithm, ssl.SSLError) as error:
        raise _invalid(file, f"cannot be used: {error}") from None


def _invalid(file: PemFile, what: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(key=file.key, message=f"{file.key}: {file.path} {what}")
