"""KV that moves between workers: handoffs of prompts, and prefixes fetched from a peer.

Comes in: sequences whose blocks were reserved, parts of prompts that were computed. Goes out: when each
transfer ends. Invariant: a transfer ends after its blocks were reserved and its last part was computed;
its source keeps the blocks until then. Not here: who hands over to whom (`cluster`).
"""

from dataclasses import dataclass

from services.replay.policy import Mechanisms
from services.replay.presets import EngineTiming
from services.replay.sequence import Sequence


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


class Links:
    """The way into each worker."""

    def __init__(self, worker_count: int, timing: EngineTiming, mechanisms: Mechanisms) -> None:
        """Make idle links."""
        self._timing = timing
        self._mechanisms = mechanisms
        self._free_s = [0.0] * worker_count

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
        first_s = began_s + (now_s - began_s) / layers
        end_s = self.move(handoff.target, moved, max(first_s, handoff.reserved_s, handoff.link_end_s))
        last_s = now_s + moved / layers / self._timing.performance.transfer_bytes_per_s
        self._free_s[handoff.target] = max(end_s, last_s)
        return self._free_s[handoff.target]

    def move(self, target: int, size_bytes: int, now_s: float) -> float:
        """Put bytes on the way to a worker; returns when the last one arrives."""
        begin_s = max(now_s, self._free_s[target]) if self._mechanisms.shares_links else now_s
        self._free_s[target] = begin_s + size_bytes / self._timing.performance.transfer_bytes_per_s
        return self._free_s[target]

    def expected_end_s(self, handoff: Handoff, now_s: float) -> float:
        """Predict when a handoff whose prompt is computed will have arrived."""
        performance = self._timing.performance
        if handoff.reserved:
            return max(now_s, handoff.link_end_s) + performance.handoff_s
        begin_s = max(now_s, self._free_s[handoff.target]) if self._mechanisms.shares_links else now_s
        blocks = -(-handoff.prefill.job.prompt_tokens // self._timing.block_size_tokens)
        return begin_s + performance.transfer_s(blocks * self._timing.block_bytes)
