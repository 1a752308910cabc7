"""Which blocks are fingerprinted, and when mismatches mean that an engine must go."""

from hypothesis import given
from hypothesis import strategies as st

from services.domain.ids import EngineEpoch, RequestId, WorkerId
from services.domain.integrity import (
    CHECKS_MAX,
    IntegrityLimits,
    IntegrityRecord,
    KvChecked,
    Verdict,
    sample_blocks,
)

LIMITS = IntegrityLimits(mismatches_max=3, window_s=100.0)
P, Q = WorkerId("prefill-0"), WorkerId("prefill-1")


def life(worker_id: WorkerId) -> EngineEpoch:
    """The life of a worker's engine."""
    return EngineEpoch(f"life of {worker_id}")


def told(*results: tuple[float, WorkerId, bool]) -> list[Verdict | None]:
    """Fold results (at, source, matched) into a new record."""
    record = IntegrityRecord(LIMITS)
    return [
        record.fold(KvChecked(source=worker_id, epoch=life(worker_id), matched=matched), now_s=at_s)
        for at_s, worker_id, matched in results
    ]


@given(
    name=st.text(min_size=1),
    block_count=st.integers(1, 5000),
    blocks_max=st.integers(1, 200),
)
def test_a_sample_is_spread_and_holds_the_last_block(name: str, block_count: int, blocks_max: int) -> None:
    """Ascending, as many as asked for and exist, the last one always among them; the same each time."""
    chosen = sample_blocks(RequestId(name), block_count=block_count, handoff_frac=1.0, blocks_max=blocks_max)
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == min(block_count, blocks_max, CHECKS_MAX)
    assert chosen[0] >= 0
    assert chosen[-1] == block_count - 1
    again = sample_blocks(RequestId(name), block_count=block_count, handoff_frac=1.0, blocks_max=blocks_max)
    assert again == chosen


def test_the_share_of_checked_handoffs_is_the_setting() -> None:
    """None at 0, all at 1, and about a quarter of many at 0.25."""
    names = [RequestId(f"r{i}") for i in range(2000)]

    def checked(frac: float) -> int:
        return sum(bool(sample_blocks(n, block_count=9, handoff_frac=frac, blocks_max=2)) for n in names)

    assert checked(0.0) == 0
    assert checked(1.0) == len(names)
    assert 400 < checked(0.25) < 600


def test_all_blocks_get_their_turn() -> None:
    """Over many requests every block of a prompt is in some sample: none is always spared."""
    seen = {
        index
        for i in range(500)
        for index in sample_blocks(RequestId(f"r{i}"), block_count=20, handoff_frac=1.0, blocks_max=3)
    }
    assert seen == set(range(20))


def test_mismatches_within_the_window_give_the_engine_up() -> None:
    """The limit's mismatch says why, and from whom the blocks came; those before say nothing."""
    *before, last = told((0.0, P, False), (50.0, Q, False), (99.0, P, False))
    assert before == [None, None]
    assert last is not None
    assert last.at_fault is None
    assert "prefill-0, prefill-1" in last.reason


def test_old_mismatches_do_not_count() -> None:
    """Three mismatches that are further apart than the window are chance."""
    assert told((0.0, P, False), (60.0, P, False), (120.0, P, False)) == [None] * 3


def test_one_source_alone_is_enough_when_there_is_no_other() -> None:
    """With one prefill worker nobody can tell whose fault it is: the engine that pulled goes."""
    last = told((0.0, P, True), (1.0, P, False), (2.0, P, False), (3.0, P, False))[-1]
    assert last is not None
    assert last.at_fault is None


def test_a_source_that_alone_is_wrong_is_at_fault() -> None:
    """While another worker's blocks arrive intact, it is the one whose blocks do not that must go."""
    said = told((0.0, Q, True), *((1.0 + i, P, False) for i in range(50)))
    assert said[:3] == [None] * 3
    assert {verdict.at_fault for verdict in said[3:] if verdict is not None} == {life(P)}
    assert len(said[3:]) == sum(verdict is not None for verdict in said[3:])


def test_the_excuse_ends_with_the_window() -> None:
    """An intact pull of long ago says nothing about now."""
    said = told((0.0, Q, True), *((97.0 + i, P, False) for i in range(4)))
    assert [verdict and verdict.at_fault for verdict in said[3:]] == [life(P), None]
    assert said[4] is not None
