"""`baton plan` and `baton planner`: sizes a load, refuses what is wrong, and never scales."""

import json
from pathlib import Path

import pytest

from services.cli.__main__ import main
from services.runtime.metrics import Meters
from tests.planner.api_server import ApiServer
from tests.planner.gateway_page import GatewayPage
from tests.planner.kubernetes.api_state import ApiState

LOAD = ["plan", "--requests-per-s", "45", "--prompt-tokens", "1155", "--output-tokens", "211"]
PREFILL = "apis/apps/v1/namespaces/llm/deployments/baton-prefill"


def test_a_load_is_sized(capsys: pytest.CaptureFixture[str]) -> None:
    """Both roles, as JSON; stricter targets need more."""
    assert main([*LOAD, "--json", "-"]) == 0
    relaxed = json.loads(capsys.readouterr().out)[0]
    assert main([*LOAD, "--json", "-", "--set", "planner.targets.tpot_s=0.006"]) == 0
    strict = json.loads(capsys.readouterr().out)[0]
    assert 0 < relaxed["decode_workers"] < strict["decode_workers"]
    assert relaxed["late_frac"] <= 0.01


def test_a_load_is_sized_in_words_and_an_impossible_target_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A table, and a sentence below it."""
    assert main([*LOAD, "--set", "planner.targets.ttft_s=0.001"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("   kind  prefill")
    assert "out of reach" in shown


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["plan", "--requests-per-s", "45"], "--prompt-tokens"),
        ([*LOAD, "--set", "planner.targets.ttft_s=0"], "ttft_s"),
        ([*LOAD, "--set", "planner.headroom=1.2"], "headroom"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and the key."""
    assert main(arguments) == 2
    assert key in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plan", "planner"])
def test_wrong_settings_refuse_the_start(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same for a file, before anything is connected to."""
    file = tmp_path / "planner.yaml"
    file.write_text("planner: {limits: {decode: {workers_min: 0}}}\n", encoding="utf-8")
    assert main([command, "--settings", str(file)]) == 2
    assert "decode.workers_min" in capsys.readouterr().err


def test_a_running_cluster_is_only_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the settings scale, nothing is written; what would be done is said."""
    state = ApiState()
    state.workload(PREFILL, 2)
    api, gateway = ApiServer(state), GatewayPage(Meters())
    file = tmp_path / "planner.json"
    file.write_text(
        json.dumps(
            {
                "planner": {"limits": {"flips": False}, "look_s": 0.05},
                "observe": {"source": "gateways", "urls": [gateway.url]},
                "target": {
                    "target": "kubernetes",
                    "namespace": "llm",
                    "api_url": api.url,
                    "workloads": [{"phase": "prefill", "name": "baton-prefill"}],
                    "ca_file": str(tmp_path / "none"),
                },
            }
        ),
        encoding="utf-8",
    )
    try:
        assert main(["plan", "--settings", str(file), "--looks", "2"]) == 0
    finally:
        api.close()
        gateway.close()
    assert set(api.methods) == {"GET"}
    assert "nothing is changed" in capsys.readouterr().out
