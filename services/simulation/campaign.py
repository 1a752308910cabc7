"""Many seeds, on all cores: what each did, and which of them failed.

Comes in: seeds. Goes out: a verdict per seed, in the order of the seeds. Invariant: verdicts do not depend
on how many processes work; no process outlives the campaign.
Not here: one run (`services.simulation.run`).
"""

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass

from services.runtime.lifecycle import die_with_parent
from services.simulation.draw import draw
from services.simulation.invariants import Violation
from services.simulation.run import Report, run

AHEAD_PER_PROCESS = 4
"""Seeds handed out before their turn, so that no process waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a seed did, small enough to keep a hundred thousand of them."""

    seed: int
    workers: int
    gateways: int
    faults: int
    ends: tuple[tuple[str, int], ...]
    """How many calls ended how, ordered."""
    virtual_s: float
    events: int
    digest: str
    violations: tuple[Violation, ...]

    def line(self) -> str:
        """One line for a person."""
        calls = ", ".join(f"{count} {end}" for end, count in self.ends)
        result = "ok" if not self.violations else f"BROKEN {self.violations[0]}"
        return (
            f"seed {self.seed}: {self.workers} workers, {self.gateways} gateways, {self.faults} faults; "
            f"{calls}; {self.virtual_s:.0f} s, {self.events} events, {self.digest[:8]}: {result}"
        )


def verdict_on(report: Report) -> Verdict:
    """Sum a report up."""
    scenario = report.scenario
    outcomes = () if report.seen is None else report.seen.outcomes
    return Verdict(
        seed=scenario.seed,
        workers=len(scenario.workers),
        gateways=scenario.gateway_count,
        faults=len(scenario.faults),
        ends=tuple(sorted(Counter(outcome.end.value for outcome in outcomes).items())),
        virtual_s=report.virtual_s,
        events=len(report.events),
        digest=report.digest,
        violations=report.violations,
    )


def run_seed(seed: int) -> Verdict:
    """Draw and run one seed."""
    return verdict_on(run(draw(seed)))


def run_seeds(seeds: Sequence[int], *, processes: int | None = None) -> Iterator[Verdict]:
    """Run seeds and give their verdicts in order.

    Args:
        seeds: which.
        processes: how many work side by side; None takes one per core.
    """
    count = processes or len(os.sched_getaffinity(0))
    if count == 1:
        yield from map(run_seed, seeds)
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_share_the_fate) as pool:
        waiting: list[Future[Verdict]] = []
        try:
            for seed in seeds:
                waiting.append(pool.submit(run_seed, seed))
                if len(waiting) > count * AHEAD_PER_PROCESS:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _share_the_fate() -> None:
    """In a process of the pool: end with the campaign, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(os.getppid())
