"""The loop: what is seen is decided, carried out, told and kept; what fails changes nothing."""

import asyncio
import json
import resource
from dataclasses import dataclass, field
from pathlib import Path

from planner.decision import Decision
from planner.journal import Journal
from planner.loop import Entry, Loop
from planner.observation import Attainment, Backlog, PoolState
from planner.observers.port import ObservationFailed, Sight
from planner.planner import Planner
from planner.targets.port import Outcome, TargetUnavailable
from services.runtime.clock import LoopClock, run_virtual
from services.runtime.metrics import Meters
from tests.planner.situations import demand, obeyed, pools, settings


@dataclass
class Load:
    """A stand-in for a running cluster's counters."""

    rates: list[float | None] | list[float]
    """One per look; None fails."""

    async def look(self) -> Sight:
        """Look once."""
        rate = self.rates.pop(0) if len(self.rates) > 1 else self.rates[0]
        if rate is None:
            raise ObservationFailed("nobody answers")
        return Sight(age_s=0.0, demand=demand(rate), backlog=Backlog(), attainment=Attainment())

    async def close(self) -> None:
        """Nothing is held."""


@dataclass
class Instant:
    """A target whose workers are there at once."""

    state: tuple[PoolState, ...]
    refuses: bool = False
    leads: bool = True
    decisions: list[Decision] = field(default_factory=list)

    async def pools(self) -> tuple[PoolState, ...]:
        """Read all pools."""
        return self.state

    async def carry_out(self, decision: Decision) -> Outcome:
        """Obey, or refuse."""
        if self.refuses:
            raise TargetUnavailable("not now")
        if not self.leads:
            return Outcome(left=("another leads",))
        self.decisions.append(decision)
        self.state = obeyed(self.state, decision)
        return Outcome(done=("done",))

    async def close(self) -> None:
        """Nothing is held."""


def lived(load: Load, target: Instant, *, for_s: float) -> tuple[list[Entry], str]:
    """Let a loop run for a while of virtual time; its looks, and its metrics."""

    async def story() -> tuple[list[Entry], str]:
        meters, seen = Meters(), list[Entry]()
        loop = Loop(Planner(settings()), load, target, clock=LoopClock(), meters=meters, blind_look_s=10.0)
        loop.on_look(seen.append)
        running = asyncio.ensure_future(loop.run())
        await asyncio.sleep(for_s)
        running.cancel()
        return seen, meters.render().decode()

    return run_virtual(story())


def test_pools_follow_the_load_and_every_look_is_counted() -> None:
    """More is asked for, more workers are ordered, and the metrics say how often."""
    target = Instant(pools(1, 1))
    looks, metrics = lived(Load([20.0] * 5 + [300.0]), target, for_s=205.0)
    assert sum(pool.ordered_count for pool in target.state) > 4
    assert len(looks) == 21
    changed = sum(look.result == "changed" for look in looks)
    assert changed == len(target.decisions)
    assert f'baton_planner_decisions_total{{outcome="changed"}} {changed}.0' in metrics
    assert 'baton_planner_scalings_total{direction="up"}' in metrics


def test_a_blind_look_changes_nothing_and_the_next_one_goes_on() -> None:
    """An observer that fails is counted and asked again."""
    target = Instant(pools(2, 2))
    looks, metrics = lived(Load([None, None, 60.0]), target, for_s=45.0)
    assert 'baton_planner_decisions_total{outcome="blind"} 2.0' in metrics
    assert len(looks) == 3


def test_a_target_that_refuses_is_told_and_asked_again() -> None:
    """The loop does not end; the pools are as they were."""
    target = Instant(pools(1, 1), refuses=True)
    looks, metrics = lived(Load([300.0]), target, for_s=45.0)
    assert {look.result for look in looks} == {"failed"}
    assert target.state == pools(1, 1)
    assert looks[0].outcome.left == ("not now",)
    assert 'outcome="failed"' in metrics


def test_what_another_planner_does_is_not_counted_here() -> None:
    """A stand-by decides, is told that it may not act, and orders nothing."""
    target = Instant(pools(1, 1), leads=False)
    looks, metrics = lived(Load([300.0]), target, for_s=45.0)
    assert {look.result for look in looks} == {"left"}
    assert "baton_planner_scalings_total{" not in metrics


def test_every_look_is_kept_within_bounds(tmp_path: Path) -> None:
    """One line each, and two files at most."""
    looks, _metrics = lived(Load([60.0]), Instant(pools(1, 1)), for_s=300.0)
    file = tmp_path / "decisions.jsonl"
    journal = Journal(file, bytes_max=8_192)
    for look in looks:
        journal.keep(look)
    last = json.loads(file.read_text(encoding="utf-8").splitlines()[-1])
    assert last["look"]["decision"]["reasons"]
    assert file.stat().st_size <= 8_192
    assert {path.name for path in tmp_path.iterdir()} <= {"decisions.jsonl", "decisions.jsonl.1"}


def test_a_disk_that_takes_half_a_decision_keeps_none_of_it(tmp_path: Path) -> None:
    """What was kept before, and what is kept after, can be read."""
    looks, _metrics = lived(Load([60.0]), Instant(pools(1, 1)), for_s=60.0)
    file = tmp_path / "decisions.jsonl"
    journal = Journal(file, bytes_max=1 << 20)
    journal.keep(looks[0])
    kept = file.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) + 100, before[1]))
    try:
        journal.keep(looks[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_bytes() == kept
    journal.keep(looks[2])
    assert [json.loads(line)["look"]["result"] for line in file.read_text(encoding="utf-8").splitlines()] == [
        looks[0].result,
        looks[2].result,
    ]
