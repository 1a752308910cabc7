"""`make bench-placement`: parts can run, what lacks its file is left out, options go where they belong."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.bench.placement_parts import PARTS, main, parse, run_command


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_has_its_files_runs_benchmarks_that_exist(name: str) -> None:
    """Whatever else was given."""
    given = parse(["--conversations", "a.jsonl", "--code", "b.csv", "--peer-python", "python"])
    commands = list(PARTS[name].commands(given))
    assert commands
    assert all(find_spec(f"tests.bench.{command[0]}") for command in commands)


def test_what_lacks_its_file_is_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    """It is no failure."""
    assert main(parse(["--parts", "simulator"])) == 0
    assert "simulator  left out" in capsys.readouterr().out


def test_options_of_loads_run_it_alone() -> None:
    """And are refused where it does not run."""
    assert parse(["--load", "bursts", "--first", "9"]).others == ["--load", "bursts", "--first", "9"]
    with pytest.raises(SystemExit):
        parse(["--parts", "decision", "--first", "9"])


def test_a_part_that_fails_is_a_failure_and_its_output_is_kept(tmp_path: Path) -> None:
    """The others run all the same."""
    assert main(parse(["--no-such-option", "--out", str(tmp_path)])) == 1
    assert (tmp_path / "loads.txt").exists()
    with (tmp_path / "help.txt").open("w") as out:
        assert run_command(("bench_placement", "--help"), out) == 0
    assert "--speedup" in (tmp_path / "help.txt").read_text()
