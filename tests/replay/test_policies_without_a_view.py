"""Policies that know only what they sent where: chance, counts, a circle of hashes."""

from collections import Counter
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from services.replay.policies.at_once import Pool, tie_break
from services.replay.policies.bounded_hashing import BALANCE, BoundedHashing
from services.replay.policies.chance import BetterOfTwo, ByChance
from services.replay.sequence import Job
from tests.replay.choosing import job

EIGHT = Pool(range(8), prefills=True, decodes=True)


def test_chance_is_fair_and_the_same_each_time() -> None:
    """No worker is drawn far more often than another."""
    drawn = [ByChance(EIGHT).choose(job(index)) for index in range(4_000)]
    again = [ByChance(EIGHT).choose(job(index)) for index in range(4_000)]
    assert drawn == again
    assert min(Counter(drawn).values()) > 400
    assert max(Counter(drawn).values()) < 600


@given(st.lists(st.booleans(), max_size=120))
def test_the_less_loaded_of_the_two_that_were_drawn_is_taken(ends: list[bool]) -> None:
    """Never one that was not drawn, never the worse of the two."""
    policy = BetterOfTwo(EIGHT)
    open_jobs: list[Job] = []
    for index, end in enumerate(ends):
        if end and open_jobs:
            policy.ended(open_jobs.pop(0))
        new = job(index)
        before = dict(policy.counts)
        first, second = sorted(before, key=lambda worker: tie_break(new, worker))[:2]
        worker = policy.choose(new)
        assert worker == (second if before[second] < before[first] else first)
        open_jobs.append(new)
    assert sum(policy.counts.values()) == len(open_jobs)


def test_two_choices_keep_loads_closer_than_one() -> None:
    """What the source promises: the fullest of n holds about ln ln n more than its share, not sqrt."""
    one = Counter(ByChance(EIGHT).choose(job(index)) for index in range(800))
    policy = BetterOfTwo(EIGHT)
    for index in range(800):
        policy.choose(job(index))
    assert max(policy.counts.values()) - 100 <= 4
    assert max(one.values()) - 100 > 4


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=150), st.integers(1, 8))
def test_no_worker_gets_more_than_its_share(steps: list[tuple[int, bool]], workers: int) -> None:
    """The mean times c, rounded up, with the request that is placed."""
    policy = BoundedHashing(Pool(range(workers), prefills=True, decodes=True), 64)
    open_jobs: list[Job] = []
    for index, (family, end) in enumerate(steps):
        if end and open_jobs:
            policy.ended(open_jobs.pop())
        new = job(index, family, 100 + family, 200 + family, 300 + family, 1_000 + index)
        worker = policy.choose(new)
        open_jobs.append(new)
        assert policy.counts[worker] <= ceil(BALANCE * len(open_jobs) / workers)


def test_equal_beginnings_go_to_one_worker_while_it_has_room() -> None:
    """Only the first 256 tokens are looked at; others spill to the next on the circle, always the same."""
    policy = BoundedHashing(EIGHT, 64)
    homes = set()
    for index in range(20):
        asked = job(index, 1, 2, 3, 4, 1_000 + index)
        homes.add(policy.choose(asked))
        policy.ended(asked)
    assert len(homes) == 1
    first, second = policy.choose(job(100, 1, 2, 3, 4, 5)), policy.choose(job(101, 1, 2, 3, 4, 6))
    assert first in homes
    assert second != first


def test_when_a_worker_leaves_only_its_keys_move() -> None:
    """Consistency: of eight workers, one eighth of the keys."""
    keys = [job(index, index, 10_000 + index, 20_000 + index, 30_000 + index) for index in range(400)]
    seven = Pool(range(7), prefills=True, decodes=True)
    before = [BoundedHashing(EIGHT, 64).choose(key) for key in keys]
    after = [BoundedHashing(seven, 64).choose(key) for key in keys]
    assert all(old == new for old, new in zip(before, after, strict=True) if old != 7)
    assert 20 < sum(old == 7 for old in before) < 90
