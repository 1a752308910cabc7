"""`baton replay` as a person uses it: a table, a file, errors that say what to do."""

import json
from pathlib import Path

import pytest

from services.cli.__main__ import main
from services.replay.policies import POLICIES
from services.replay.trace_files import write_trace
from services.replay.workloads import make_workload


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    """A small trace with reuse."""
    file = tmp_path / "small.jsonl"
    write_trace(file, make_workload("shared-prefix", seed=0, count=60))
    return file


def test_policies_are_compared_in_one_table(trace_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each, with the split in its name."""
    arguments = ["replay", str(trace_file), "--policy", "round-robin", "--policy", "dynamo-kv"]
    assert main([*arguments, "--workers", "4", "--prefill-workers", "1", "--speedup", "2"]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].startswith("small.jsonl: 60 requests at 2x, 4 workers")
    assert [line.split("  ")[0] for line in lines[1:4]] == ["policy", "round-robin 1P3D", "dynamo-kv 1P3D"]


def test_one_policy_gives_one_record_as_json(trace_file: Path, tmp_path: Path) -> None:
    """Measures and settings side by side."""
    file = tmp_path / "answer.json"
    assert main(["replay", str(trace_file), "--policy", "dynamo-kv", "--json", str(file)]) == 0
    told = json.loads(file.read_text())
    assert told["requests"] == 60
    assert told["settings"]["policy"] == "dynamo-kv"
    assert told["ttft_ms"]["p95"] >= told["ttft_ms"]["p50"] > 0


def test_several_policies_give_a_list(trace_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To standard output if asked, and nothing else there."""
    arguments = ["replay", str(trace_file), "--policy", "least-loaded", "--policy", "dynamo-kv"]
    assert main([*arguments, "--json", "-", "--stream-kv", "--first-token", "just-in-time"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["settings"]["policy"] for one in told] == ["least-loaded", "dynamo-kv"]
    assert told[0]["mechanisms"]["streams_kv"] is True


def test_policies_and_splits_are_compared_on_one_page(
    trace_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every policy there is, once, and one on two pools beside them."""
    file = tmp_path / "page.html"
    arguments = ["replay", str(trace_file), "--policy", "all", "--policy", "llm-d", "--policy", "llm-d:1"]
    assert main([*arguments, "--workers", "2", "--report", str(file)]) == 0
    names = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[2:-1]]
    assert names[: len(POLICIES)] == sorted(POLICIES)
    assert names[len(POLICIES)] == "llm-d 1P1D"
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_made_workload_needs_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    """By name and seed."""
    assert main(["replay", "--workload", "bursts", "--first", "40", "--seed", "5"]) == 0
    assert "bursts: 40 requests" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "name one trace"),
        (["nowhere.jsonl"], "nowhere.jsonl"),
        (["--workload", "nothing"], "none is named 'nothing'"),
        (["--workload", "bursts", "--policy", "magic"], "none is named 'magic'"),
        (["--workload", "bursts", "--policy", "llm-d:many"], "'many' is no number"),
        (["--workload", "bursts", "--timing", "abacus"], "none is named 'abacus'"),
        (["--workload", "bursts", "--speedup", "0"], "speedup must be greater than 0"),
        (["--workload", "bursts", "--prefill-workers", "8"], "leave no worker"),
    ],
)
def test_wrong_usage_says_what_is_wrong(
    arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, one line."""
    assert main(["replay", *arguments]) == 2
    error = capsys.readouterr().err
    assert what in error
    assert error.count("\n") == 1
