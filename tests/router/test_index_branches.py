"""Prompts that share beginnings and part ways: the index says what a plain set per worker would say."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from services.domain.blocks import BlockHash, BlocksStored
from services.domain.ids import WorkerId
from services.router.prefixes.radix import HeldPrefixes

ROOT = BlockHash(0)
WORKERS = tuple(map(WorkerId, "abcd"))


def block(number: int) -> BlockHash:
    """A hash that depends on nothing but its number."""
    return BlockHash((number + 1) * 0x9E3779B97F4A7C15 & (2**64 - 1))


@dataclass(slots=True)
class Model:
    """One set of blocks per worker, beside the structure that is to say the same."""

    prompts: list[tuple[BlockHash, ...]]
    index: HeldPrefixes = field(default_factory=HeldPrefixes)
    held: dict[WorkerId, set[BlockHash]] = field(default_factory=lambda: {w: set() for w in WORKERS})

    def store(self, worker_id: WorkerId, prompt: Sequence[BlockHash], start: int, end: int) -> None:
        """A worker computed a part of a prompt."""
        part = tuple(prompt[start:end])
        self.index.store(worker_id, BlocksStored(parent=prompt[start - 1] if start else ROOT, hashes=part))
        self.held[worker_id].update(part)

    def remove(self, worker_id: WorkerId, hashes: Sequence[BlockHash]) -> None:
        """A worker evicted blocks, whichever."""
        self.index.remove(worker_id, hashes)
        self.held[worker_id].difference_update(hashes)

    def clear(self, worker_id: WorkerId) -> None:
        """A worker lost everything."""
        self.index.clear(worker_id)
        self.held[worker_id].clear()

    def drop(self, worker_id: WorkerId, blocks_count: int) -> None:
        """The index forgets blocks of its own choice; how many is not its choice."""
        before = self.index.blocks_of(worker_id)
        self.index.drop_oldest(worker_id, blocks_count)
        after = self.index.blocks_of(worker_id)
        assert after <= before
        assert len(after) == max(0, len(before) - blocks_count)
        self.held[worker_id] = set(after)

    def check(self) -> None:
        """Every prompt, every worker, every count."""
        for prompt in self.prompts:
            for end in {len(prompt), len(prompt) // 2}:
                asked = prompt[:end]
                expected = {w: n for w in WORKERS if (n := leading(asked, self.held[w])) > 0}
                assert self.index.overlaps(asked) == expected
        assert len(self.index) == len(set().union(*self.held.values()))
        for worker_id, held in self.held.items():
            assert self.index.blocks_of(worker_id) == held
            assert self.index.blocks_count(worker_id) == len(held)
        assert self.index.runs_count() <= len(self.index)


def leading(hashes: Sequence[BlockHash], held: set[BlockHash]) -> int:
    """Overlap by definition."""
    return next((i for i, h in enumerate(hashes) if h not in held), len(hashes))


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Prompts as a tree: each new one leaves an earlier one at some depth."""
    prompts: list[tuple[BlockHash, ...]] = [()]
    made = 0
    for _ in range(draw(st.integers(1, 6))):
        trunk = draw(st.sampled_from(prompts))
        shared, own = draw(st.integers(0, len(trunk))), draw(st.integers(1, 12))
        prompts.append((*trunk[:shared], *(block(made + i) for i in range(own))))
        made += own
    return Model(prompts=prompts[1:])


@settings(max_examples=150, deadline=None)
@given(models(), st.data())
def test_any_tree_and_any_order_of_events(model: Model, data: st.DataObject) -> None:
    """Parts stored from anywhere, blocks evicted from anywhere, workers cleared: each overlap stays exact."""
    for _ in range(data.draw(st.integers(1, 25))):
        worker_id = data.draw(st.sampled_from(WORKERS))
        prompt = data.draw(st.sampled_from(model.prompts))
        match data.draw(st.sampled_from(("store", "store", "prefix", "evict", "tail", "clear", "drop"))):
            case "store":
                start = data.draw(st.integers(0, len(prompt) - 1))
                model.store(worker_id, prompt, start, data.draw(st.integers(start + 1, len(prompt))))
            case "prefix":
                model.store(worker_id, prompt, 0, len(prompt))
            case "evict":
                model.remove(worker_id, data.draw(st.lists(st.sampled_from(prompt), max_size=6)))
            case "tail":
                model.remove(worker_id, prompt[: -1 - data.draw(st.integers(0, len(prompt))) : -1])
            case "clear":
                model.clear(worker_id)
            case _:
                model.drop(worker_id, data.draw(st.integers(0, 8)))
        model.check()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 12), max_size=12), max_size=12), st.data())
def test_events_that_lie_leave_nothing_behind(told: list[list[int]], data: st.DataObject) -> None:
    """Repeated blocks, and blocks told as neighbours that are none, can be taken back in any order."""
    index = HeldPrefixes()
    for numbers in told:
        worker_id = data.draw(st.sampled_from(WORKERS))
        index.store(worker_id, BlocksStored(parent=ROOT, hashes=tuple(map(block, numbers))))
        index.overlaps(tuple(map(block, data.draw(st.permutations(range(13))))))
        assert len(index) == len(frozenset().union(*map(index.blocks_of, WORKERS))) <= 13
    for worker_id in data.draw(st.permutations(WORKERS)):
        index.remove(worker_id, [block(n) for n in data.draw(st.permutations(range(13)))])
        assert index.blocks_count(worker_id) == 0
    assert (len(index), index.runs_count()) == (0, 0)


def test_a_conversation_stays_few_runs() -> None:
    """Turns behind turns lengthen one run, so looking up a long conversation takes no more steps."""
    index, chain = HeldPrefixes(), [block(n) for n in range(2000)]
    for start in range(0, len(chain), 4):
        parent = chain[start - 1] if start else ROOT
        index.store(WORKERS[0], BlocksStored(parent=parent, hashes=tuple(chain[start : start + 4])))
    assert index.runs_count() == 1
    index.store(WORKERS[1], BlocksStored(parent=ROOT, hashes=tuple(chain)))
    assert index.runs_count() == 1
    assert index.overlaps(chain) == {WORKERS[0]: 2000, WORKERS[1]: 2000}


def test_turns_between_two_workers_stay_few_runs() -> None:
    """A worker prefills each turn, another pulls it and writes the answer: still one run in the end."""
    index, chain = HeldPrefixes(), [block(n) for n in range(1200)]
    prefill, decode = WORKERS[:2]
    told = 0
    for turn in range(0, len(chain), 12):
        for worker_id, start, end in ((prefill, told, turn + 8), (decode, turn, turn + 8)):
            parent = chain[start - 1] if start else ROOT
            index.store(worker_id, BlocksStored(parent=parent, hashes=tuple(chain[start:end])))
        told = turn + 8
        for at in range(told, told + 4):
            index.store(decode, BlocksStored(parent=chain[at - 1], hashes=(chain[at],)))
    assert index.runs_count() <= 2
    assert index.overlaps(chain) == {prefill: 1196, decode: 1200}


def test_one_worker_that_branches_everywhere_leaves_its_trunk_whole() -> None:
    """Prompts that leave a long one at every block cost that one nothing."""
    index, chain = HeldPrefixes(), [block(n) for n in range(300)]
    for end in range(len(chain), 0, -1):
        prompt = (*chain[:end], block(1000 + end))
        index.store(WORKERS[0], BlocksStored(parent=ROOT, hashes=prompt))
    assert index.runs_count() == len(chain)
    assert index.overlaps((*chain[:150], block(1150), block(2000))) == {WORKERS[0]: 151}


class CountedChain(Sequence[BlockHash]):
    """A prompt that counts which of its blocks were looked at."""

    def __init__(self, chain: Sequence[BlockHash]) -> None:
        self._chain = chain
        self.seen: set[int] = set()

    def __len__(self) -> int:
        return len(self._chain)

    def __getitem__(self, at):  # type: ignore[no-untyped-def]  # one block is all that is asked for
        self.seen.add(at)
        return self._chain[at]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 40))
def test_a_look_up_sees_few_blocks(held: int, asked: int, workers_count: int) -> None:
    """Blocks looked at grow with the logarithm of the prompt, and not at all with the workers."""
    index, chain = HeldPrefixes(), [block(n) for n in range(4000)]
    parted = (*chain[:asked], *(block(n) for n in range(5000, 5100)))
    for i in range(workers_count):
        index.store(WorkerId(f"w{i}"), BlocksStored(parent=ROOT, hashes=tuple(chain[:held])))
    counted = CountedChain(parted)
    assert index.overlaps(counted) == {WorkerId(f"w{i}"): min(held, asked) for i in range(workers_count)}
    assert len(counted.seen) <= 2 + max(1, min(held, asked + 100)).bit_length()
