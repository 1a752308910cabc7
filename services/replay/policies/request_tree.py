"""What a router that hears nothing of caches believes them to hold: the prompts it sent to each worker.

Comes in: prompts as names of their full blocks. Goes out: the longest known beginning and who was sent it.
A radix tree of which every node knows the workers that were sent it. Source: SGLang's gateway,
`sgl-model-gateway/src/policies/tree.rs` (sglang, commit 03744db), there over characters of text.
Its notes of use are kept as they are: a node is stamped when a prompt ends there, and by one match in eight;
the others have stamp 0. Eviction takes a worker's leaf with the oldest stamp, then what becomes a leaf by
that, until the worker's tree is small enough.
Invariant: a worker that was sent a node was sent its parent. Not here: the choice (`sglang`).
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

ROOT_STAMP = 0


class _Node:
    """A run of blocks that always follow each other."""

    __slots__ = ("children", "first", "names", "parent", "stamps")

    def __init__(self, names: Sequence[int], parent: "_Node | None") -> None:
        self.names = names
        self.parent = parent
        self.children: dict[int, _Node] = {}
        self.stamps: dict[int, int] = {}
        """Of each worker that was sent it, in the order in which they were."""
        self.first = -1
        """Worker named at a match, as long as it is one of those."""

    def is_leaf_of(self, worker: int) -> bool:
        """Tell whether the worker was sent this, and nothing behind it."""
        return worker in self.stamps and not any(worker in child.stamps for child in self.children.values())


class RequestTree:
    """Prompts sent to the workers of one pool."""

    def __init__(self, workers: Sequence[int]) -> None:
        """Begin with nothing sent."""
        self._root = _Node((), None)
        self._root.stamps = dict.fromkeys(workers, ROOT_STAMP)
        self.sizes_blocks = dict.fromkeys(workers, 0)
        """Of each worker's part of the tree."""
        self._clock = 0

    def match(self, names: Sequence[int]) -> tuple[int, int]:
        """Find the longest beginning of a prompt that was sent.

        Returns:
            Its length in blocks, and a worker that was sent it; 0 blocks: the worker means nothing.
        """
        node, at = self._root, 0
        while at < len(names):
            child = node.children.get(names[at])
            if child is None:
                break
            shared = _shared(names, at, child.names)
            at += shared
            node = child
            if shared < len(child.names):
                break
        if node.first not in node.stamps:
            node.first = next(iter(node.stamps))
        self._clock += 1
        if self._clock % 8 == 0:
            node.stamps[node.first] = self._clock
        return at, node.first

    def insert(self, names: Sequence[int], worker: int) -> None:
        """Note that a prompt was sent to a worker."""
        node, at = self._root, 0
        while at < len(names):
            child = node.children.get(names[at])
            if child is None:
                child = _Node(names[at:], node)
                child.first = worker
                node.children[names[at]] = child
            else:
                shared = _shared(names, at, child.names)
                if shared < len(child.names):
                    child = _split(node, child, shared)
            if worker not in child.stamps:
                child.stamps[worker] = 0
                self.sizes_blocks[worker] += len(child.names)
            at += len(child.names)
            node = child
        self._clock += 1
        node.stamps[worker] = self._clock

    def evict(self, most_blocks: int) -> None:
        """Forget what was sent longest ago to workers whose part is larger than `most_blocks`."""
        for worker, size in self.sizes_blocks.items():
            if size > most_blocks:
                self._evict_of(worker, most_blocks)

    def _evict_of(self, worker: int, most_blocks: int) -> None:
        leaves: list[tuple[int, int, _Node]] = []
        stack = [self._root]
        while stack:
            node = stack.pop()
            stack.extend(child for child in node.children.values() if worker in child.stamps)
            if node is not self._root and node.is_leaf_of(worker):
                leaves.append((node.stamps[worker], len(leaves), node))
        order = len(leaves)
        heapify(leaves)
        while leaves and self.sizes_blocks[worker] > most_blocks:
            _stamp, _order, node = heappop(leaves)
            parent = node.parent
            del node.stamps[worker]
            self.sizes_blocks[worker] -= len(node.names)
            if parent is None:
                continue
            if not node.stamps:
                del parent.children[node.names[0]]
            if parent is not self._root and parent.is_leaf_of(worker):
                order += 1
                heappush(leaves, (parent.stamps[worker], order, parent))


def _split(parent: _Node, node: _Node, at: int) -> _Node:
    """Cut a node in two; returns the upper part."""
    upper = _Node(node.names[:at], parent)
    upper.stamps = dict(node.stamps)
    upper.first = node.first
    parent.children[upper.names[0]] = upper
    node.names, node.parent = node.names[at:], upper
    upper.children[node.names[0]] = node
    return upper


def _shared(names: Sequence[int], at: int, run: Sequence[int]) -> int:
    """Count the blocks of a run that go on a prompt from a place on: equal name means equal beginning."""
    low, high = 0, min(len(run), len(names) - at)
    if high == len(run) and names[at + high - 1] == run[-1]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if names[at + middle - 1] == run[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
