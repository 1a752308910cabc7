"""Which blocks are fingerprinted, and when mismatches mean that an engine must go."""

from hypothesis import given
from hypothesis import strategies as st

from services.domain.ids import RequestId, WorkerId
from services.domain.integrity import (
    CHECKS_MAX,
    IntegrityLimits,
    IntegrityRecord,
    KvChecked,
    sample_blocks,
)

LIMITS = IntegrityLimits(mismatches_max=3, window_s=100.0)
P, Q = WorkerId("prefill-0"), WorkerId("prefill-1")


def told(*results: tuple[float, WorkerId, bool]) -> list[str | None]:
    """Fold results (at, source, matched) into a new record."""
    record = IntegrityRecord(LIMITS)
    return [record.fold(KvChecked(source=s, matched=m), now_s=at_s) for at_s, s, m in results]


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
    said = told((0.0, P, False), (50.0, Q, False), (99.0, P, False))
    assert said[:2] == [None, None]
    assert said[2] is not None
    assert "prefill-0, prefill-1" in said[2]


def test_old_mismatches_do_not_count() -> None:
    """Three mismatches that are further apart than the window are chance."""
    assert told((0.0, P, False), (60.0, P, False), (120.0, P, False)) == [None] * 3


def test_one_source_alone_is_enough_when_there_is_no_other() -> None:
    """With one prefill worker nobody can tell whose fault it is: the engine that pulled goes."""
    assert told((0.0, P, True), (1.0, P, False), (2.0, P, False), (3.0, P, False))[-1] is not None


def test_a_source_that_alone_is_wrong_is_at_fault_itself() -> None:
    """While another worker's blocks arrive intact, this engine is fine, however often that one fails."""
    said = told((0.0, Q, True), *((1.0 + i, P, False) for i in range(50)))
    assert said == [None] * 51


def test_the_excuse_ends_with_the_window() -> None:
    """An intact pull of long ago says nothing about now."""
    said = told((0.0, Q, True), *((97.0 + i, P, False) for i in range(4)))
    assert said[:4] == [None] * 4
    assert said[4] is not None
