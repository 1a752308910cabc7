"""SGLang's cache-aware routing does what its source says it does."""

from hypothesis import given
from hypothesis import strategies as st

from services.replay.policies.at_once import Pool
from services.replay.policies.request_tree import RequestTree
from services.replay.policies.sglang import CacheAware, CacheAwareSettings
from tests.replay.choosing import job

FOUR = Pool(range(4), prefills=True, decodes=True)


def test_balanced_a_known_beginning_goes_where_it_was_sent() -> None:
    """Above the threshold, though others have less to do."""
    policy = CacheAware(FOUR, 64, CacheAwareSettings())
    home = policy.choose(job(0, 1, 2, 3))
    assert [policy.choose(job(index, 1, 2, 3, 40 + index)) for index in range(1, 9)] == [home] * 8


def test_balanced_a_new_prompt_goes_to_the_least_loaded() -> None:
    """At the threshold too: 3 of 10 blocks are not more than 0.3."""
    policy = CacheAware(FOUR, 64, CacheAwareSettings())
    assert policy.choose(job(0, 1, 2, 3)) == 0
    assert policy.choose(job(1, 1, 2, 3, *range(20, 27))) == 1
    assert policy.choose(job(2, 1, 2, 3, *range(30, 36))) == 0


def test_formerly_a_new_prompt_went_to_the_smallest_tree() -> None:
    """To the worker that was sent the least text, whatever it has to do."""
    policy = CacheAware(FOUR, 64, CacheAwareSettings(to_smallest_tree=True))
    long, short = job(0, *range(50)), job(1, 100)
    assert policy.choose(long) == 0
    assert [policy.choose(job(index, 1_000 + index, 2_000 + index)) for index in (2, 3, 4)] == [1, 2, 3]
    policy.ended(long)
    assert policy.choose(short) == 1


def test_unbalanced_the_shortest_queue_is_taken() -> None:
    """Only when both thresholds are passed; then a known beginning does not count."""
    policy = CacheAware(Pool(range(2), prefills=True, decodes=True), 64, CacheAwareSettings())
    asked = [policy.choose(job(index, 1, 2, 3)) for index in range(66)]
    assert asked == [0] * 65 + [1]
    # 65 to 1: still 64 apart, not more; the beginning is known to the first, which was sent it first.
    assert policy.choose(job(66, 1, 2, 3)) == 0
    assert policy.choose(job(67, 1, 2, 3)) == 1


def test_the_difference_must_be_large_beside_the_load() -> None:
    """Over 64 apart, but not 1.5 times as many."""
    policy = CacheAware(Pool(range(2), prefills=True, decodes=True), 64, CacheAwareSettings())
    for index in range(200):
        policy.take(job(10_000 + index), 1)
    for index in range(200):
        policy.take(job(20_000 + index), 0)
    home = policy.choose(job(0, 1, 2, 3))
    for index in range(1, 90):
        assert policy.choose(job(index, 1, 2, 3)) == home
    assert policy.counts[home] - policy.counts[1 - home] > 64


def test_what_was_sent_long_ago_is_forgotten() -> None:
    """Every two minutes, down to the limit: the oldest leaf goes first."""
    settings = CacheAwareSettings(max_tree_size_characters=64 * 4 * 5)
    policy = CacheAware(Pool(range(1), prefills=True, decodes=True), 64, settings)
    policy.choose(job(0, 1, 2, 3))
    policy.choose(job(1, 4, 5, 6, arrival_s=1.0))
    assert policy._tree.match([1, 2, 3])[0] == 3
    policy.choose(job(2, 7, arrival_s=121.0))
    assert policy._tree.match([1, 2, 3])[0] == 0
    assert policy._tree.match([4, 5, 6])[0] == 3


prompts = st.lists(st.integers(0, 2), max_size=8)


def named(digits: list[int]) -> list[int]:
    """Name blocks by the whole beginning up to them."""
    return [int("1" + "".join(map(str, digits[: end + 1]))) for end in range(len(digits))]


@given(st.lists(st.tuples(prompts, st.integers(0, 2)), max_size=30), prompts, st.integers(0, 12))
def test_the_tree_knows_the_longest_beginning_and_who_was_sent_it(
    sent: list[tuple[list[int], int]], asked: list[int], most_blocks: int
) -> None:
    """As a plain list of what was sent knows it; after eviction no part is larger than it may be."""
    tree = RequestTree(range(3))
    for digits, worker in sent:
        tree.insert(named(digits), worker)
    names = named(asked)

    def shared(digits: list[int]) -> int:
        return sum(mine == other for mine, other in zip(names, named(digits), strict=False))

    blocks, worker = tree.match(names)
    assert blocks == max((shared(digits) for digits, _worker in sent), default=0)
    assert blocks == 0 or worker in {to for digits, to in sent if shared(digits) >= blocks}
    for to in range(3):
        distinct = {name for digits, other in sent if other == to for name in named(digits)}
        assert tree.sizes_blocks[to] == len(distinct)
    tree.evict(most_blocks)
    assert max(tree.sizes_blocks.values()) <= most_blocks
    assert tree.match(names)[0] <= blocks
