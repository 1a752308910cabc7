"""KV that moves between workers: handoffs of prompts, and prefixes fetched from a peer.

Comes in: sequences whose blocks were reserved, parts of prompts that were computed. Goes out: when each
transfer ends. Invariant: a transfer ends after its blocks were reserved and its last part was computed;
its source keeps the blocks until then. Not here: who hands over to whom (`cluster`).
"""

from bisect import bisect_left
from dataclasses import dataclass

from services.replay.policy import Mechanisms
from services.replay.presets import EngineTiming
from services.replay.sequence import Sequence

TAKEN_MAX = 256
"""Times remembered for which a link was taken; what is ready longer ago than these is put behind them."""


@dataclass(slots=True, eq=False, kw_only=True)
class Handoff:
    """One prompt on its way from the worker that computes it to the one that writes.

    Attributes:
        source: number of the prefill worker.
        target: number of the decode worker.
        prefill: computes the prompt.
        decode: writes.
        reserved: the target has room for it.
        prefilled: the whole prompt is computed.
        ready_tokens: leading tokens whose step has ended.
        reserved_s: when the target had room.
        sent_blocks: leading blocks that the target has, or that are on their way.
        moved_bytes: sent so far.
        link_end_s: when the last byte sent so far arrives.
    """

    source: int
    target: int
    prefill: Sequence
    decode: Sequence
    reserved: bool = False
    reserved_s: float = 0.0
    prefilled: bool = False
    ready_tokens: int = 0
    sent_blocks: int = 0
    moved_bytes: int = 0
    link_end_s: float = 0.0


@dataclass(slots=True, eq=False, kw_only=True)
class Fetch:
    """A prefix on its way to a worker that will go on computing behind it.

    Attributes:
        source: number of the worker that holds it.
        wanted_blocks: leading blocks asked for.
        puller: number of the worker they go to.
        sequence: waits for them there.
        pinned_blocks: of these, held at the source while they move.
    """

    source: int
    wanted_blocks: int
    puller: int
    sequence: Sequence
    pinned_blocks: int = 0


class Link:
    """The way into one worker: one thing moves at a time, each as soon as it is ready and the link free.

    What is ready by and by, as layers are, is put down when all of it is: so it may take times before now
    that nothing else had taken, and never one that something else had.
    """

    def __init__(self) -> None:
        """Begin with nothing taken."""
        self._begins_s: list[float] = []
        self._ends_s: list[float] = []
        self._known_s = 0.0
        """Before this it is forgotten what was taken."""

    def take(self, ready_s: float, duration_s: float) -> float:
        """Move something, in pieces where others are in between; returns when the last of it arrives."""
        begins_s, ends_s = self._begins_s, self._ends_s
        begin_s = at_s = max(ready_s, self._known_s)
        first = last = bisect_left(ends_s, at_s)
        if first < len(ends_s) and begins_s[first] <= at_s:
            begin_s, at_s, last = begins_s[first], ends_s[first], first + 1
        while last < len(ends_s) and at_s + duration_s > begins_s[last]:
            duration_s -= begins_s[last] - at_s
            at_s = ends_s[last]
            last += 1
        begins_s[first:last], ends_s[first:last] = [begin_s], [at_s + duration_s]
        if len(ends_s) > TAKEN_MAX:
            self._known_s = ends_s[-TAKEN_MAX - 1]
            del begins_s[:-TAKEN_MAX], ends_s[:-TAKEN_MAX]
        return at_s + duration_s

    def free_s(self, now_s: float) -> float:
        """Say from when on nothing is taken."""
        return max(now_s, self._ends_s[-1]) if self._ends_s else now_s


class Links:
    """The way into each worker."""

    def __init__(self, worker_count: int, timing: EngineTiming, mechanisms: Mechanisms) -> None:
        """Make idle links."""
        self._timing = timing
        self._mechanisms = mechanisms
        self._links = [Link() for _ in range(worker_count)]

    def reserve(self, handoff: Handoff, now_s: float) -> None:
        """Learn that the target of a handoff has room, and which blocks it lacks."""
        handoff.reserved, handoff.reserved_s = True, now_s
        if not self._mechanisms.moves_whole_prompts:
            handoff.sent_blocks = handoff.decode.shared_blocks

    def send(self, handoff: Handoff, now_s: float, began_s: float | None = None) -> float | None:
        """Send what is computed and was not sent.

        Args:
            handoff: whose.
            now_s: when the last part of it was computed.
            began_s: when the step began that computed it; None: that was no step that ends now. Where layers
                are streamed, what that step computed has been on its way since its first layer was ready.

        Returns:
            When all has arrived; None: more will follow.
        """
        if not handoff.reserved:
            return None
        size = self._timing.block_size_tokens
        tokens = handoff.ready_tokens
        ready = -(-tokens // size) if handoff.prefilled else tokens // size
        if ready > handoff.sent_blocks or (handoff.prefilled and not handoff.moved_bytes):
            # With nothing to move it still takes its turn, as a pull of the simulated engine does.
            moved = max(0, ready - handoff.sent_blocks) * self._timing.block_bytes
            handoff.moved_bytes += moved
            handoff.link_end_s = self._move_layers(handoff, moved, now_s, began_s)
            handoff.sent_blocks = max(ready, handoff.sent_blocks)
        if not handoff.prefilled:
            return None
        return max(now_s, handoff.link_end_s) + self._timing.performance.handoff_s

    def _move_layers(self, handoff: Handoff, moved: int, now_s: float, began_s: float | None) -> float:
        """Put a part of a prompt on its way; returns when the last byte arrives."""
        if began_s is None or not self._mechanisms.streams_layers:
            return self.move(handoff.target, moved, max(now_s, handoff.link_end_s))
        layers = self._timing.layers
        layer_bytes, layer_s = moved / layers, (now_s - began_s) / layers
        end_s = max(handoff.reserved_s, handoff.link_end_s)
        for layer in range(1, layers + 1):
            end_s = self.move(handoff.target, layer_bytes, max(end_s, began_s + layer * layer_s))
        return end_s

    def move(self, target: int, size_bytes: float, ready_s: float) -> float:
        """Put bytes on the way to a worker; returns when the last one arrives."""
        duration_s = size_bytes / self._timing.performance.transfer_bytes_per_s
        if not self._mechanisms.shares_links:
            return ready_s + duration_s
        return self._links[target].take(ready_s, duration_s)

    def expected_end_s(self, handoff: Handoff, now_s: float) -> float:
        """Predict when a handoff whose prompt is computed will have arrived."""
        performance = self._timing.performance
        if handoff.reserved:
            return max(now_s, handoff.link_end_s) + performance.handoff_s
        begin_s = self._links[handoff.target].free_s(now_s) if self._mechanisms.shares_links else now_s
        blocks = -(-handoff.prefill.job.prompt_tokens // self._timing.block_size_tokens)
        return begin_s + performance.transfer_s(blocks * self._timing.block_bytes)
