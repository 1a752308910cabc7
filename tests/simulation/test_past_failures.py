"""Runs that once broke a promise, kept as files: each must now keep all of them.

A file is a scenario as `baton simulate --save` writes it; its name says what was wrong.
"""

from pathlib import Path

import pytest

from services.simulation.run import run
from services.simulation.scenario import read

FILES = sorted((Path(__file__).parent / "regressions").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_what_failed_once_does_not_fail_again(file: Path) -> None:
    """The scenario of a past failure keeps every promise."""
    assert [str(violation) for violation in run(read(file)).violations] == []
