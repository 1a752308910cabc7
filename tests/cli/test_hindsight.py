"""`baton explain` afterwards: how wrong the prediction was, where, and what the other way would have cost."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.hindsight import chosen_of, look_back, parts_of
from services.cli.records import MarginsRecord, Record
from services.cli.story import tell

REMOTE: dict[str, Any] = {
    "path": "remote", "worker_id": "prefill-0", "overlap_blocks": 2, "uncached_tokens": 936, "wait_s": 0.010,
    "prefill_s": 0.030, "transfer_s": 0.008, "ttft_s": 0.053, "harm_s": 0.0, "cost_s": 0.053,
}  # fmt: skip
LOCAL: dict[str, Any] = {
    "path": "local", "worker_id": "decode-0", "overlap_blocks": 0, "uncached_tokens": 1000, "wait_s": 0.0,
    "prefill_s": 0.033, "transfer_s": 0.0, "ttft_s": 0.040, "harm_s": 0.080, "cost_s": 0.120,
}  # fmt: skip
MARKS = [
    ["accepted", 0.0], ["placed", 0.002], ["queued", 0.003], ["claimed", 0.043], ["prefilled", 0.078],
    ["handed_over", 0.080], ["first_token", 0.091], ["last_token", 0.391], ["ended", 0.391],
]  # fmt: skip


def record(chosen: dict[str, Any] = REMOTE, **changes: Any) -> Record:
    """Make a record of 1,000 prompt tokens and 31 output tokens."""
    values: dict[str, Any] = {
        "request_id": "r",
        "model": "m",
        "prompt_tokens": 1000,
        "output_tokens": 31,
        "cached_tokens": 64,
        "first_token_early": False,
        "fallbacks": [],
        "finish": "length",
        "timeline": {"marks": MARKS, "output_tokens": 31},
        "placement": {
            "path": chosen["path"],
            "worker_id": chosen["worker_id"],
            "overlap_blocks": 2,
            "predicted_ttft_s": chosen["ttft_s"],
            "predicted_tpot_s": 0.008,
            "reason": "because",
            "candidates": [REMOTE, LOCAL],
        },
    }
    return msgspec.convert(values | changes, Record)


def test_a_remote_prefill_is_judged_part_by_part() -> None:
    """38 ms late: the queue took 30 of them, prefill 5; each part stands beside its prediction."""
    told = list(look_back(record()))
    (whole,) = [line for line in told if "TTFT was" in line]
    assert "38.0 ms longer than predicted (53.0 ms predicted, 91.0 ms measured, +72%)" in whole
    assert whole.index("queue took 31.0 ms more") < whole.index("prefill took 5.0 ms more")
    assert "    queue: predicted 10.0 ms, took 41.0 ms" in told
    assert "    transfer and first step: predicted 13.0 ms, took 13.0 ms" in told
    assert any("TPOT was 2.0 ms longer than predicted (8.0 ms predicted, 10.0 ms measured" in x for x in told)
    assert told[-2].endswith(
        "local decode-0, was predicted to cost 120.0 ms: 29.0 ms more than this one came to"
    )


def test_a_local_prefill_is_one_span() -> None:
    """Only the engine knows where its wait ends; what stalled others is part of what the way came to."""
    told = list(look_back(record(LOCAL)))
    assert "    wait, prefill and first step: predicted 40.0 ms, took 89.0 ms" in told
    assert any("remote prefill-0, was predicted to cost 53.0 ms: 118.0 ms less than" in line for line in told)


def test_what_the_index_promised_is_held_against_what_was_computed() -> None:
    """More tokens to compute than the cache promised are named; as promised, nothing is said."""
    assert not [line for line in look_back(record()) if "promised" in line]
    (line,) = [line for line in look_back(record(cached_tokens=0)) if "promised" in line]
    assert "1000 tokens were computed, 64 more than the index promised" in line
    (line,) = [line for line in look_back(record(cached_tokens=100)) if "promised" in line]
    assert "36 fewer" in line


def test_a_prediction_that_came_true_is_said_to_have() -> None:
    """No part is blamed for nothing."""
    marks = [["accepted", 0.0], ["placed", 0.0], ["handed_over", 0.001], ["first_token", 0.0402]]
    told = list(look_back(record(LOCAL, timeline={"marks": marks, "output_tokens": 1})))
    assert "  TTFT was as predicted, 40.2 ms" in told
    assert not [line for line in told if "TPOT" in line]


def test_ways_that_were_left_are_named_and_not_split() -> None:
    """The last decision's prediction cannot know of the ways before it."""
    told = list(look_back(record(fallbacks=["prefill-1 was lost"])))
    assert any("it took 2 ways, and the prediction is that of the last" in line for line in told)
    assert not [line for line in told if line.startswith("    ")]


def test_a_request_without_a_token_has_nothing_to_compare() -> None:
    """It failed before its first token, or was never placed."""
    marks = [["accepted", 0.0], ["placed", 0.002], ["ended", 5.0]]
    told = list(look_back(record(timeline={"marks": marks, "output_tokens": 0}, output_tokens=0)))
    assert told[-1] == "  no first token; predicted was TTFT 53.0 ms"
    assert not list(look_back(record(placement=None)))


def test_the_story_ends_with_hindsight() -> None:
    """All of it comes in one telling, after the decision and the timeline."""
    told = list(tell(record()))
    assert [line for line in told if line in ("timeline:", "hindsight:")] == ["timeline:", "hindsight:"]
    assert "decision: because" in told


@given(steps=st.lists(st.floats(0.0, 1.0), min_size=5, max_size=5), early=st.booleans())
@pytest.mark.parametrize("chosen", [REMOTE, LOCAL])
def test_the_parts_add_up(chosen: dict[str, Any], steps: list[float], early: bool) -> None:
    """No second of the prediction and none of the truth is lost or counted twice."""
    at_s, marks = 0.0, [["accepted", 0.0]]
    for name, step_s in zip(("placed", "queued", "claimed", "prefilled", "first_token"), steps, strict=True):
        at_s += step_s
        marks.append([name, at_s])
    one = record(chosen, timeline={"marks": marks, "output_tokens": 1}, first_token_early=early)
    assert one.placement is not None
    way = chosen_of(one.placement)
    assert way is not None
    parts = parts_of(one, way)
    assert sum(part.predicted_s for part in parts) == pytest.approx(chosen["ttft_s"])
    assert sum(part.measured_s for part in parts) == pytest.approx(at_s)
    assert list(look_back(one))


def test_margins_are_told_when_a_request_was_let_in_under_overload() -> None:
    """In a burst there are none to tell."""
    calm = record()
    assert calm.placement is not None
    margins = MarginsRecord(ttft_frac=0.72, tpot_frac=0.9)
    placement = msgspec.structs.replace(calm.placement, margins=margins)
    told = list(tell(msgspec.structs.replace(calm, placement=placement)))
    (line,) = [line for line in told if line.startswith("overload:")]
    assert "72% of the TTFT target" in line
    assert "90% of what the TPOT target leaves" in line
    assert not any(line.startswith("overload:") for line in tell(calm))
