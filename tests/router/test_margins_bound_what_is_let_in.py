"""Under overload a request is let in when its prediction leaves the margin, in a burst whatever it is."""

from dataclasses import replace

import pytest

from services.domain.errors import Rejected, Saturated
from services.domain.placement import Placement
from services.domain.slo import WHOLE, Margins
from services.domain.worker import WorkerLoad
from services.router.placement import place
from services.router.pricing.queue_load import QueueLoad
from tests.router.scenery import DECODE, query, router_of, worker

SOME_WAIT = WorkerLoad(waiting_count=1, waiting_prefill_tokens=12_000)
"""About a quarter of a second."""
CROWD = WorkerLoad(running_count=100, running_context_tokens=100 * 4000, kv_used_blocks=2000)
"""Writes a token in about a third of a target."""


def let_in(load: WorkerLoad, margins: Margins, *, overload: bool = True) -> Placement | Rejected:
    """Ask a worker with this load for a place."""
    router = router_of(worker("d", DECODE, load=load))
    return place(
        replace(query(), margins=margins),
        fleet=router.fleet,
        overlaps={},
        queue=QueueLoad(waiting_tokens=0, waiting_count=0, reachable=True),
        settings=router.settings,
        now_s=0.0,
        overload=overload,
    )


@pytest.mark.parametrize(
    ("load", "margins"), [(SOME_WAIT, Margins(ttft_frac=0.5)), (CROWD, Margins(tpot_frac=0.25))]
)
def test_a_margin_refuses_what_the_target_alone_lets_in(load: WorkerLoad, margins: Margins) -> None:
    """The refusal names a time; without overload the margin does not count."""
    taken = let_in(load, WHOLE)
    assert isinstance(taken, Placement), taken
    assert taken.margins == WHOLE
    refused = let_in(load, margins)
    assert isinstance(refused, Saturated)
    assert refused.retry_after_s > 0
    in_burst = let_in(load, margins, overload=False)
    assert isinstance(in_burst, Placement)
    assert in_burst.margins is None


def test_the_decision_keeps_the_margin_it_was_made_with() -> None:
    """What is learned later is held against it."""
    margins = Margins(ttft_frac=0.9, tpot_frac=0.8)
    outcome = let_in(WorkerLoad(), margins)
    assert isinstance(outcome, Placement)
    assert outcome.margins == margins


def test_an_idle_worker_takes_a_prompt_whatever_the_margin() -> None:
    """Admission never closes: some wait is always allowed, and an idle worker has none."""
    least = Margins(ttft_frac=1e-9, tpot_frac=1e-9)
    assert isinstance(let_in(WorkerLoad(), least), Placement)
