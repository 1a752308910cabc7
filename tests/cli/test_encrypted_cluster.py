"""`baton up` with TLS, and the commands that ask it: as a user who was given certificates would."""

from pathlib import Path

import pytest

from services.cli.__main__ import main
from tests.bus.certificates import Authority
from tests.cli.command import SIMULATED, baton, baton_up


async def test_a_cluster_that_asks_clients_for_certificates(tmp_path: Path) -> None:
    """It comes up, says how to reach it, answers who shows a certificate, and tells others what to do."""
    authority, members = Authority(tmp_path, "authority"), Authority(tmp_path, "members")
    certificate, key = authority.issue("edge")
    own_certificate, own_key = members.issue("member")
    tls = ("--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", str(members.ca_file))
    async with baton_up(tmp_path, *SIMULATED, *tls) as up:
        url = f"https://127.0.0.1:{(await up.becomes_ready()).http_port}"
        assert f"OpenAI API  {url}/v1" in up.out
        assert f"--url {url} --cacert FILE --cert FILE --key FILE" in up.out
        trust = {"BATON_URL": url, "BATON_CACERT": str(authority.ca_file)}
        known = {"BATON_CERT": own_certificate, "BATON_KEY": own_key}
        answered = await baton("chat", "What is prefill?", "--max-tokens", "4", **trust, **known)
        assert (answered.code, bool(answered.out.strip())) == (0, True), answered.err
        nameless = await baton("status", **trust)
        assert (nameless.code, "--cert" in nameless.err) == (1, True), nameless.err
        stranger = await baton("status", "--url", url, "--cacert", str(members.ca_file))
        assert (stranger.code, "--cacert" in stranger.err) == (1, True), stranger.err


@pytest.mark.parametrize("option", ["--cacert", "--cert"])
def test_a_client_names_the_file_that_it_cannot_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """Before anything is sent, with the exit code of wrong usage."""
    assert main(["status", "--url", "https://127.0.0.1:1", option, str(tmp_path / "absent.pem")]) == 2
    said = capsys.readouterr().err
    assert option in said
    assert "absent.pem" in said
