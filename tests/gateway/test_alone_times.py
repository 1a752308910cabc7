"""Beside the times of an ended request stand those that an idle worker would have given it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.ids import WorkerId
from services.domain.timeline import Mark, Timeline
from services.domain.worker import WorkerStatus
from services.gateway.alone import alone, measure_alone
from services.gateway.port import RequestRecord
from services.runtime.metrics import Meters
from tests.gateway.test_predictions_are_measured import ended
from tests.router.scenery import DECODE, worker

THERE = worker("w", phases=DECODE)


def status_of(worker_id: WorkerId) -> WorkerStatus | None:
    """The one worker there is."""
    return THERE if worker_id == THERE.worker_id else None


def served(first_s: float, last_s: float, *, prompt: int = 2_000, output: int = 50) -> RequestRecord:
    """A request that got its first and its last token at these moments."""
    marks = (
        (Mark.ACCEPTED, 0.0),
        (Mark.FIRST_TOKEN, first_s),
        (Mark.LAST_TOKEN, last_s),
        (Mark.ENDED, last_s),
    )
    return replace(
        ended(),
        prompt_tokens=prompt,
        output_tokens=output,
        timeline=Timeline(marks=marks, output_tokens=output),
    )


@given(first_s=st.floats(0.001, 100.0), rest_s=st.floats(0.1, 100.0), prompt=st.integers(1, 100_000))
def test_nobody_is_quicker_than_an_idle_worker(first_s: float, rest_s: float, prompt: int) -> None:
    """What came was possible; and however late it came, what is possible stays what the engine can do."""
    record = served(first_s, first_s + rest_s, prompt=prompt)
    found, later = alone(record, status_of), alone(served(1e6, 2e6, prompt=prompt), status_of)
    assert found.ttft_s is not None
    assert later.ttft_s is not None
    assert found.ttft_s == min(first_s, later.ttft_s)
    assert later.ttft_s == pytest.approx(
        THERE.performance.prompt_s(
            prompt_tokens=prompt, cached_tokens=0, step_tokens_max=THERE.limits.step_tokens_max
        )
    )
    assert found.tpot_s is not None
    assert record.timeline.tpot_s is not None
    assert found.tpot_s <= record.timeline.tpot_s


def test_each_time_that_came_has_one_that_was_possible() -> None:
    """Both are counted as often, so that shares compare; a worker that is gone makes nothing impossible."""
    meters = Meters()
    for record, known in (
        (served(9.0, 20.0), status_of),
        (served(9.0, 20.0, output=1), status_of),
        (ended(first_s=None), status_of),
        (served(9.0, 20.0), lambda _worker: None),
    ):
        measure_alone(record, known, meters)
    page = meters.render().decode()
    assert "baton_ttft_alone_seconds_count 3.0" in page
    assert "baton_tpot_alone_seconds_count 2.0" in page
    assert alone(served(9.0, 20.0), lambda _worker: None).ttft_s == 0.0
