"""Wrong settings stop the start with exit code 2 and name the key; nothing is clamped."""

import sys
from pathlib import Path

import pytest

from services.cli.__main__ import main
from tests.cli.command import baton


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("pools: {prefil: 1}", "pools.prefil"),
        ("pools: {decode: 0}", "pools.decode"),
        ("pools: {prefill: -1}", "pools.prefill"),
        ("pools: {decode: many}", "pools.decode"),
        ("edge: {http_port: 70000}", "edge.http_port"),
        ("edge: {choices_max: 0}", "edge.choices_max"),
        ("engine: quantum", "engine"),
        ("conductor: {attempts_max: 0}", "conductor.attempts_max"),
        ("simulated: {speedup: 0}", "speedup"),
        ("vllm: {model: x, lease_s: 1}", "vllm.lease_s"),
        ("cores: [[0]]", "cores"),
        ("stop_timeout_s: 0", "stop_timeout_s"),
        ("nonsense: 1", "nonsense"),
        ("- a list", "mapping"),
        ("{", "YAML"),
    ],
)
def test_a_wrong_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, key: str
) -> None:
    """Unknown keys, wrong types and impossible values: one line that says which key and which file."""
    config = tmp_path / "cluster.yaml"
    config.write_text(text, encoding="utf-8")
    assert main(["up", "--config", str(config), "--run-folder", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert key in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


async def test_wrong_flags_are_refused(tmp_path: Path) -> None:
    """From the shell: flags are judged like the file, and a file that is not there is named."""
    for arguments, key in (
        (["--decode", "0"], "pools.decode"),
        (["--http-port", "-1"], "edge.http_port"),
        (["--config", str(tmp_path / "absent.yaml")], "absent.yaml"),
        (["--model", str(tmp_path)], "model.folder"),
        (["--engine", "quantum"], "--engine"),
        (["--address", "auto"], "--on ray"),
    ):
        ended = await baton("up", *arguments, "--run-folder", str(tmp_path / "run"))
        assert (ended.code, key in ended.err) == (2, True), ended.err
        assert "Traceback" not in ended.err


def test_without_ray_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray is an extra; where it is missing nothing is started."""
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["up", "--on", "ray"]) == 2
    assert "pip install 'baton-serve[ray]'" in capsys.readouterr().err
