"""Certificates are checked when they are read, and read again when their files change."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from services.domain.errors import ConfigurationInvalid
from services.runtime.certificates import RENEWALS, RETRY_S, CredentialFiles, LiveCredentials, PemFile
from services.runtime.metrics import Meters
from tests.bus.certificates import Authority, replace_files

EXPIRY = "baton_certificate_expiry_timestamp_seconds"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Signs into the test's folder."""
    return Authority(tmp_path, "authority")


def files_of(pair: tuple[str, str], authorities: Path) -> CredentialFiles:
    """Name three files as settings do."""
    return CredentialFiles(
        certificate=PemFile(key="certificate_file", path=pair[0]),
        private_key=PemFile(key="key_file", path=pair[1]),
        authorities=PemFile(key="authority_file", path=str(authorities)),
    )


def told(meters: Meters, name: str, labels: str) -> float | None:
    """Read one sample of the metrics page; None while there is none."""
    start = f"{name}{{{labels}}} "
    found = [line for line in meters.render().decode().splitlines() if line.startswith(start)]
    return float(found[0].removeprefix(start)) if found else None


def test_a_renewal_is_taken_when_all_of_it_is_there(authority: Authority) -> None:
    """The same object until files change; half a renewal is told once and changes nothing."""
    pair, meters = authority.issue("first"), Meters()
    live = LiveCredentials(files_of(pair, authority.ca_file), listener="edge", meters=meters)
    first = live.current()
    assert live.current() is first
    ends = x509.load_pem_x509_certificate(first.chain).not_valid_after_utc.timestamp()
    assert told(meters, EXPIRY, 'listener="edge"') == first.expires_at_s == ends
    renewed = authority.issue("second")
    replace_files(pair[:1], renewed[:1])
    assert [live.current(), live.current()] == [first, first]
    assert told(meters, RENEWALS, 'listener="edge",outcome="refused"') == 1
    assert told(meters, RENEWALS, 'listener="edge",outcome="taken"') == 0
    replace_files(pair[1:], renewed[1:])
    # Reading metrics is enough: links stay open for months without a handshake.
    assert told(meters, RENEWALS, 'listener="edge",outcome="taken"') == 1
    second = live.current()
    assert second.chain == Path(renewed[0]).read_bytes()
    assert second.private_key == Path(renewed[1]).read_bytes()


def test_a_linked_folder_is_replaced_at_once(authority: Authority, tmp_path: Path) -> None:
    """Kubernetes shows a Secret through a link to a folder, and moves the link."""
    for name in ("old", "new"):
        folder = tmp_path / name
        folder.mkdir()
        for source, file in zip(authority.issue(f"{name}-pair"), ("tls.crt", "tls.key"), strict=True):
            Path(source).rename(folder / file)
    data, link = tmp_path / "data", tmp_path / "link"
    data.symlink_to("old")
    pair = str(data / "tls.crt"), str(data / "tls.key")
    live = LiveCredentials(files_of(pair, authority.ca_file), listener="edge", meters=None)
    first = live.current()
    link.symlink_to("new")
    link.replace(data)
    assert live.current() is not first
    assert live.current().chain == (tmp_path / "new" / "tls.crt").read_bytes()


def test_files_that_go_away_or_go_bad_are_outlived(authority: Authority) -> None:
    """What was read stays, whatever becomes of a file; it is replaced when the file is good again."""
    pair, meters = authority.issue("first"), Meters()
    live = LiveCredentials(files_of(pair, authority.ca_file), listener="link", meters=meters)
    first = live.current()
    authorities = authority.ca_file.read_bytes()
    authority.ca_file.unlink()
    assert live.current() is first
    authority.ca_file.write_text("no certificate", encoding="ascii")
    assert live.current() is first
    assert told(meters, RENEWALS, 'listener="link",outcome="refused"') == 2
    authority.ca_file.write_bytes(authorities)
    assert live.current().authorities == authorities


def test_what_was_refused_is_tried_again_later(authority: Authority) -> None:
    """The reading itself may have failed; while files stay bad it is told now and then, and not each time."""
    pair, meters, moments_s = authority.issue("first"), Meters(), [0.0]
    files = files_of(pair, authority.ca_file)
    live = LiveCredentials(files, listener="edge", meters=meters, now_s=lambda: moments_s[-1])
    replace_files(pair[1:], authority.issue("other")[1:])
    for moment_s in (0.0, RETRY_S - 1, RETRY_S, 2 * RETRY_S - 1, 2 * RETRY_S):
        moments_s.append(moment_s)
        live.current()
    assert told(meters, RENEWALS, 'listener="edge",outcome="refused"') == 3


@pytest.mark.parametrize(
    ("key", "content", "said"),
    [
        ("certificate_file", None, "No such file"),
        ("key_file", None, "No such file"),
        ("authority_file", None, "No such file"),
        ("certificate_file", b"", "cannot be used"),
        ("certificate_file", b"not PEM", "cannot be used"),
        ("key_file", b"not PEM", "cannot be used"),
        ("authority_file", b"not PEM", "cannot be used"),
    ],
)
def test_a_file_that_cannot_be_used_refuses_the_start(
    authority: Authority, key: str, content: bytes | None, said: str
) -> None:
    """The setting, the file and the reason are named."""
    files = files_of(authority.issue("first"), authority.ca_file)
    assert files.authorities is not None
    named = {file.key: Path(file.path) for file in (files.certificate, files.private_key, files.authorities)}
    named[key].unlink()
    if content is not None:
        named[key].write_bytes(content)
    with pytest.raises(ConfigurationInvalid, match=said) as caught:
        LiveCredentials(files, listener="edge", meters=None)
    assert caught.value.key == key
    assert str(named[key]) in str(caught.value)


def test_halves_of_two_pairs_refuse_the_start(authority: Authority) -> None:
    """A handshake with them could not succeed."""
    (certificate, _), (_, key) = authority.issue("first"), authority.issue("second")
    with pytest.raises(ConfigurationInvalid, match="is not the key of"):
        LiveCredentials(files_of((certificate, key), authority.ca_file), listener="edge", meters=None)


def test_a_key_with_a_passphrase_refuses_the_start(authority: Authority) -> None:
    """Nobody is there to type it."""
    certificate, key = authority.issue("first")
    private = serialization.load_pem_private_key(Path(key).read_bytes(), password=None)
    locked = serialization.BestAvailableEncryption(b"secret")
    Path(key).write_bytes(
        private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    )
    with pytest.raises(ConfigurationInvalid, match="passphrase") as caught:
        LiveCredentials(files_of((certificate, key), authority.ca_file), listener="edge", meters=None)
    assert caught.value.key == "key_file"
