"""`baton simulate` as a developer uses it: a campaign, a seed told, a failure made small and kept."""

from pathlib import Path

import pytest

from services.cli.__main__ import main
from services.gateway import journey


def test_a_campaign_tells_what_each_seed_did(capsys: pytest.CaptureFixture[str]) -> None:
    """A line per seed and a sum; all promises kept is exit code 0."""
    assert main(["simulate", "--seeds", "3", "--first", "10", "--processes", "1"]) == 0
    told = capsys.readouterr().out
    assert [line.split(":")[0] for line in told.splitlines()[:3]] == ["seed 10", "seed 11", "seed 12"]
    assert "3 seeds in" in told
    assert "every promise was kept" in told


def test_a_seed_is_told_the_same_way_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """The story of a seed names its cluster, its faults and its events, and never changes."""
    assert main(["simulate", "--seed", "12"]) == 0
    first = capsys.readouterr().out
    assert main(["simulate", "--seed", "12"]) == 0
    assert capsys.readouterr().out == first
    for part in ("seed 12, trace ", "faults until", "client r0", "the faults are over", "every promise"):
        assert part in first


def test_one_request_can_be_followed(capsys: pytest.CaptureFixture[str]) -> None:
    """With `--request`, events of other requests are left out."""
    assert main(["simulate", "--seed", "12", "--request", "r1"]) == 0
    told = capsys.readouterr().out
    assert "client r1 " in told
    assert "client r2 " not in told


def test_a_failure_is_made_small_saved_and_run_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With recovery taken out a failing seed is found and shrunk, and fails again from a file."""
    monkeypatch.setattr(journey, "_mendable", lambda _problem: False)
    assert main(["simulate", "--seeds", "20", "--processes", "1", "--quiet"]) == 1
    told = capsys.readouterr().out
    assert "seeds broke a promise" in told
    seed = told.rpartition("--seed ")[2].split()[0]
    file = tmp_path / "case.json"
    assert main(["simulate", "--seed", seed, "--shrink", "--save", str(file)]) == 1
    story = capsys.readouterr().out
    assert "BROKEN " in story
    assert main(["simulate", "--scenario", str(file)]) == 1
    assert capsys.readouterr().out.strip() == story[: story.index("\n\nsaved;")].strip()
    monkeypatch.undo()
    assert main(["simulate", "--scenario", str(file)]) == 0


def test_a_file_without_a_scenario_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The error names the file; the exit code is that of wrong usage."""
    assert main(["simulate", "--scenario", str(tmp_path / "none.json")]) == 2
    assert "none.json holds no scenario" in capsys.readouterr().err
