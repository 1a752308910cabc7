"""A run is a function of its scenario: same seed, same trace, byte for byte."""

import os
import subprocess
import sys

import msgspec
import pytest

from services.simulation.draw import draw
from services.simulation.run import run
from services.simulation.scenario import Scenario, render

SEEDS = (3, 17, 40)


def digests_of_another_process(hash_seed: int) -> list[str]:
    """Run the seeds in a process of its own, whose `hash` of text differs from ours."""
    code = (
        "from services.simulation.draw import draw\n"
        "from services.simulation.run import run\n"
        f"print(*(run(draw(seed)).digest for seed in {SEEDS}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.split()


def test_the_trace_depends_on_the_seed_alone() -> None:
    """Twice here, and in two processes with other hashes of text: the same digests."""
    here = [run(draw(seed)).digest for seed in SEEDS]
    assert [run(draw(seed)).digest for seed in SEEDS] == here
    assert digests_of_another_process(1) == here
    assert digests_of_another_process(2) == here
    assert len(set(here)) == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_saved_scenario_is_the_same_scenario(seed: int) -> None:
    """What is written to a file and read again gives the same run."""
    scenario = draw(seed)
    again = msgspec.json.decode(render(scenario), type=Scenario)
    assert again == scenario
    assert run(again).digest == run(scenario).digest


def test_every_kind_of_fault_is_drawn() -> None:
    """Three hundred seeds draw every kind of fault, runs without any, and every way a client may behave."""
    drawn = [draw(seed) for seed in range(300)]
    kinds = {type(fault).__name__ for scenario in drawn for fault in scenario.faults}
    assert kinds == {
        "BreakLink", "CorruptPulls", "CrashEngine", "CutBus", "CutLink", "DrainWorker", "DropCache",
        "HangEngine", "KillGateway", "KillWorker", "LoseBusState", "LoseReplies", "MangleKvEvents",
        "PauseWorker", "SkewClock", "SlowNetwork", "SlowWorker", "Strike", "TurnWorker",
    }  # fmt: skip
    assert any(not scenario.faults for scenario in drawn)
    arrivals = [arrival for scenario in drawn for arrival in scenario.arrivals]
    assert any(arrival.leaves_after_s is not None for arrival in arrivals)
    assert any(arrival.leaves_after_tokens is not None for arrival in arrivals)
    assert any(arrival.seed is not None for arrival in arrivals)
