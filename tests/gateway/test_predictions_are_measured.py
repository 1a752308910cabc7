"""Each ended request holds its predicted TTFT against the real one, once, where the two can be compared."""

import pytest

from services.domain.ids import RequestId, WorkerId
from services.domain.placement import Path, Placement
from services.domain.stream import FinishReason
from services.domain.timeline import Mark, Timeline
from services.gateway.port import RequestRecord
from services.gateway.records import RecordBook
from services.runtime.metrics import Meters

NAME = "baton_ttft_over_predicted_ratio"


def ended(
    *,
    path: Path = Path.REMOTE,
    first_s: float | None = 0.25,
    fallbacks: tuple[str, ...] = (),
    placed: bool = True,
) -> RequestRecord:
    """A request that was placed after 50 ms, with 100 ms predicted from there."""
    marks = [(Mark.ACCEPTED, 0.0)]
    marks += [(Mark.PLACED, 0.05)] if placed else []
    marks += [(Mark.FIRST_TOKEN, first_s)] if first_s is not None else []
    placement = Placement(
        request_id=RequestId("r"),
        path=path,
        worker_id=WorkerId("w"),
        overlap_blocks=0,
        predicted_ttft_s=0.1,
        predicted_tpot_s=0.01,
        predicted_s=1.0,
        reason="any",
        candidates=(),
    )
    return RequestRecord(
        request_id=RequestId("r"),
        model="m",
        prompt_tokens=10,
        output_tokens=1,
        cached_tokens=0,
        placement=placement if placed else None,
        fallbacks=fallbacks,
        handoff=None,
        decode_placement=None,
        first_token_early=False,
        timeline=Timeline(marks=(*marks, (Mark.ENDED, 1.0)), output_tokens=1),
        finish=FinishReason.LENGTH,
        error=None,
    )


def observed(*records: RequestRecord) -> list[str]:
    """Lines of the metric that count or sum."""
    meters = Meters()
    book = RecordBook(10, meters)
    for record in records:
        book.add(record)
    lines = meters.render().decode().splitlines()
    return [line for line in lines if line.startswith((f"{NAME}_sum{{", f"{NAME}_count{{"))]


def test_the_ratio_counts_from_the_decision() -> None:
    """200 ms after a decision that said 100 ms is twice as long; paths are apart."""
    assert observed(ended(), ended(path=Path.LOCAL, first_s=0.1)) == [
        f'{NAME}_count{{path="remote"}} 1.0',
        f'{NAME}_sum{{path="remote"}} 2.0',
        f'{NAME}_count{{path="local"}} 1.0',
        f'{NAME}_sum{{path="local"}} 0.5',
    ]


@pytest.mark.parametrize(
    "record", [ended(first_s=None), ended(fallbacks=("prefill-0 was lost",)), ended(placed=False)]
)
def test_what_cannot_be_compared_does_not_count(record: RequestRecord) -> None:
    """No first token, another way than the predicted one, or no decision."""
    assert observed(record) == []
