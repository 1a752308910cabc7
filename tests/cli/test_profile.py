"""`baton profile`: an engine is measured, data are fitted, the model can be pasted into settings."""

import json
from pathlib import Path

import pytest

from services.cluster.settings import ClusterSettings
from services.domain.performance import PRESETS, PerformanceModel
from services.runtime.settings import parse, read_yaml
from tests.cli.command import baton

SMALL = """
engine: simulated
simulated:
  performance: cpu-baton-tiny
  kv_blocks: 1024
  context_tokens_max: 4096
  sequences_max: 16
  step_tokens_max: 1024
"""
GRID = "kind,batch,isl,prefix,ctx,ms\n" + "\n".join(
    f"prefill,1,{n},0,,{10 + n / 50}" for n in (100, 200, 400, 800, 1600)
)


async def test_a_simulated_engine_is_profiled_and_its_model_pasted_back(tmp_path: Path) -> None:
    """The fit is what the settings gave the engine, and reads as settings again."""
    config, written, answer = (tmp_path / name for name in ("cluster.yaml", "times.yaml", "answer.json"))
    config.write_text(SMALL)
    ended = await baton(
        "profile",
        "--config",
        str(config),
        "--quick",
        "--handoff",
        "--write",
        str(written),
        "--json",
        str(answer),
    )
    assert ended.code == 0, ended.err
    assert "cpu-baton-tiny" in ended.out
    assert "prefill, the fit" in ended.out
    pasted = parse(ClusterSettings, read_yaml(written), source="written").simulated.performance
    assert isinstance(pasted, PerformanceModel)
    wanted = PRESETS["cpu-baton-tiny"]
    for name in PerformanceModel.__dataclass_fields__:
        assert getattr(pasted, name) == pytest.approx(getattr(wanted, name), rel=0.01), name
    told = json.loads(answer.read_text(encoding="utf-8"))
    assert told["fit"]["fitted"] == ["prefill", "decode", "transfer"]
    assert told["before_name"] == "cpu-baton-tiny"


async def test_published_data_are_fitted_beside_a_preset(tmp_path: Path) -> None:
    """Words by default; with `--json -` nothing but the answer."""
    file = tmp_path / "grid.csv"
    file.write_text(GRID)
    ended = await baton("profile", "--data", str(file), "--preset", "h100-llama-3.1-8b-bf16")
    assert ended.code == 0, ended.err
    assert "h100-llama-3.1-8b-bf16" in ended.out
    alone = json.loads((await baton("profile", "--data", str(file), "--json", "-")).out)
    assert alone["fit"]["model"]["prefill_step_s"] == pytest.approx(0.010)
    assert alone["fit"]["model"]["prefill_token_s"] == pytest.approx(20e-6)


async def test_wrong_questions_are_told_in_one_line(tmp_path: Path) -> None:
    """Exit code 2, what is wrong, no traceback."""
    file = tmp_path / "grid.csv"
    file.write_text(GRID)
    for arguments, word in (
        (["--data", str(tmp_path / "nowhere.csv")], "nowhere.csv"),
        (["--data", str(file), "--group", "other"], "grid"),
        (["--data", str(file), "--quick"], "--quick"),
        (["--data", str(file), "--preset", "other"], "other"),
        (["--engine", "simulated", "--preset", "other"], "other"),
        (["--engine", "simulated", "--group", "other"], "--group"),
        (["--engine", "simulated", "--budget-s", "0"], "--budget-s"),
    ):
        ended = await baton("profile", *arguments)
        assert (ended.code, word in ended.err) == (2, True), ended.err
        assert "Traceback" not in ended.err
