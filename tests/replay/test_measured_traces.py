"""What a live cluster served can be replayed, and its outcome stands beside the simulated one."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from services.domain.blocks import BlockHash
from services.gateway.records import PREFIX_IDS_MAX, PREFIX_STEP_TOKENS, prefix_ids
from services.replay.measured import MeasuredRequest, read_measured, remark, write_measured
from services.replay.trace_files import read_trace


def measured(at_ms: float, ids: list[int], ttft_ms: float = 100.0) -> MeasuredRequest:
    """Make a request of 1,100 tokens."""
    return MeasuredRequest(
        timestamp=at_ms, input_length=1100, output_length=20, hash_ids=ids, ttft_ms=ttft_ms, tpot_ms=8.0
    )


def test_an_export_is_a_trace_with_prefixes_and_outcomes(tmp_path: Path) -> None:
    """Arrivals begin at 0 in their order, equal beginnings stay equal, and what was measured is kept."""
    path = tmp_path / "last.jsonl"
    written = write_measured(path, [measured(90_500.0, [7, 8], 300.0), measured(90_000.0, [7, 9])])
    assert written == 2
    trace = read_trace(path)
    assert [request.arrival_s for request in trace.requests] == [0.0, 0.5]
    earlier, later = trace.requests
    assert earlier.prefix_ids[0] == later.prefix_ids[0]
    assert set(earlier.prefix_ids[1:]).isdisjoint(later.prefix_ids[1:])
    said = remark(read_measured(path))
    assert said is not None
    assert "2 requests, TTFT ms mean 200.0, p95 300.0" in said


def test_another_trace_has_no_outcome(tmp_path: Path) -> None:
    """A trace without measured times is replayed as ever, and nothing is said of it."""
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 10, "output_length": 2, "hash_ids": [1]}\n')
    assert remark(read_measured(path)) is None


@given(st.lists(st.integers(0, 2**64 - 1), max_size=12_000), st.sampled_from([16, 32, 48, 64, 512]))
def test_equal_beginnings_have_equal_ids_and_few(numbers: list[int], size: int) -> None:
    """A prompt's ids begin with those of each of its beginnings, and a record never grows with the prompt."""
    hashes = [BlockHash(number) for number in numbers]
    ids = prefix_ids(hashes, size)
    assert len(ids) <= PREFIX_IDS_MAX
    if PREFIX_STEP_TOKENS % size == 0:
        assert len(ids) == min(PREFIX_IDS_MAX, len(hashes) * size // PREFIX_STEP_TOKENS)
    half = prefix_ids(hashes[: len(hashes) // 2], size)
    assert ids[: len(half)] == half
