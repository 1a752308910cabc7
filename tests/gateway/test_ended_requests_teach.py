"""An ended request teaches the router by how much it missed what it was let in for under overload."""

from dataclasses import replace

import pytest

from services.domain.placement import Placement
from services.domain.slo import WHOLE, Margins
from services.domain.timeline import Mark, Timeline
from services.gateway.lessons import Lessons
from services.gateway.port import RequestRecord
from services.router.router import Router
from services.router.settings import RouterSettings
from services.runtime.metrics import Meters
from tests.gateway.test_predictions_are_measured import ended

TIMES = 50


def let_in(record: RequestRecord, margins: Margins | None = WHOLE) -> RequestRecord:
    """The same request, let in under overload."""
    assert isinstance(record.placement, Placement)
    return replace(record, placement=replace(record.placement, margins=margins))


def learned(record: RequestRecord, *, priority: int = 0) -> tuple[Margins, str]:
    """Margins and metrics after many such requests, with a target of 0.2 s and 20 ms a token."""
    router, meters = Router(RouterSettings(ttft_target_s=0.2, tpot_target_s=0.02)), Meters()
    lessons = Lessons(router, meters)
    for _ in range(TIMES):
        lessons.learn(record, priority=priority)
    return router.misses.margins(record.model), meters.render().decode()


def test_a_late_first_token_widens_the_margin_and_the_metric_shows_it() -> None:
    """150 ms were predicted, 250 ms came, 200 ms are the target."""
    margins, text = learned(let_in(ended()))
    assert margins.ttft_frac < 0.9
    assert margins.tpot_frac == 1.0
    assert f'baton_admission_margin_ratio{{model="m",target="ttft"}} {margins.ttft_frac}' in text
    assert 'baton_admission_margin_ratio{model="m",target="tpot"} 1.0' in text


def test_a_slow_answer_widens_the_other() -> None:
    """Ten tokens in a second, of which 10 ms each were predicted."""
    marks = ((Mark.ACCEPTED, 0.0), (Mark.PLACED, 0.0), (Mark.FIRST_TOKEN, 0.1), (Mark.LAST_TOKEN, 1.0))
    record = replace(ended(), timeline=Timeline(marks=(*marks, (Mark.ENDED, 1.0)), output_tokens=10))
    margins, _ = learned(let_in(record))
    assert margins.ttft_frac == 1.0
    assert margins.tpot_frac < 0.9


def test_one_that_ended_late_without_a_token_counts_as_late() -> None:
    """Its deadline took it: how long it would have taken is not known, only that it was too long."""
    margins, _ = learned(let_in(ended(first_s=None)))
    assert margins.ttft_frac < 0.9


@pytest.mark.parametrize(
    "record",
    [
        let_in(ended(), margins=None),
        let_in(ended(fallbacks=("prefill-0 was lost",))),
        ended(placed=False),
    ],
)
def test_what_the_targets_did_not_bound_says_nothing(record: RequestRecord) -> None:
    """A burst, a way that was left for another, a refusal."""
    assert learned(record)[0] == WHOLE


def test_batch_work_says_nothing() -> None:
    """Targets are those of interactive work."""
    assert learned(let_in(ended()), priority=1)[0] == WHOLE
