"""One worker's engine: continuous batching, with steps in which nothing changes taken in one go.

Comes in: sequences, pulls that ended, blocks given back. Goes out: when the next step that matters ends,
and what ended with it. Semantics are those of the simulated engine
(`services.engine.simulated.scheduler`): decodes first, then prompts begun, then pulled ones, then waiting
ones in order, in one token budget; the last loses its blocks when there are none left.

A step in which every sequence only decodes leaves the worker as it was, but for one token each. A *run* of
such steps is computed ahead up to the first end of a sequence, and cut off when something arrives in
between (`interrupt`). What the steps begun so far have taken is booked when somebody asks (`settle`).
Invariant: what is seen from outside at a moment is what walking step by step would show.
Not here: admission and blocks (`batch`), links, other workers (`cluster`).
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush

from services.domain.spoiling import Decoding
from services.replay.batch import Batch
from services.replay.policy import Running, WorkerState
from services.replay.presets import EngineTiming
from services.replay.sequence import Sequence, Stage

RUN_STEPS_MAX = 96
"""Steps computed ahead at most: what is cut off was computed in vain."""


@dataclass(slots=True, kw_only=True)
class Delivery:
    """What ended with a step."""

    first: list[Sequence] = field(default_factory=list)
    """Got their first token here, whatever else is true of them."""
    ended: list[Sequence] = field(default_factory=list)
    prefilled: list[Sequence] = field(default_factory=list)
    """To be handed over; they hold their blocks until `release`, or decode here after `keep`."""
    chunked: list[Sequence] = field(default_factory=list)
    """Computed another part of a prompt that is streamed."""

    @property
    def is_empty(self) -> bool:
        """Whether only tokens were written."""
        return not (self.first or self.ended or self.prefilled or self.chunked)


class Worker:
    """One engine on a virtual clock that its caller leads."""

    def __init__(self, index: int, timing: EngineTiming, *, run_steps_max: int = RUN_STEPS_MAX) -> None:
        """Make an idle worker.

        Args:
            index: its number in the cluster.
            timing: its engine.
            run_steps_max: steps computed ahead at most; 1 walks step by step.
        """
        self.index = index
        self.timing = timing
        self.batch = Batch(timing)
        self.cache = self.batch.cache
        self.step_ends_s = array("d")
        """End of every step so far; of a run, also of steps that have not begun."""
        self.busy_s = 0.0
        """Time in steps that ended."""
        self.prefill_busy_s = 0.0
        """Time that prefill added to these."""
        self.stepping = False
        """A step is under way."""
        self.cuts = 0
        """How often a run was cut off: an end announced before that does not come."""
        self.is_watched = False
        """Somebody wants to see every step end: none are taken in one go."""
        self._begun = 0
        self.began_s = 0.0
        """When the step under way, or the last one, began; of a run, the first."""
        self._run_steps_max = run_steps_max
        self._ending: list[tuple[int, int, Sequence]] = []
        self._prefill_s = 0.0

    # ------------------------------------------------------------------ what arrives

    def submit(self, sequence: Sequence) -> None:
        """Let a new sequence wait for its turn."""
        self.batch.add(sequence)

    def arrive(self, sequence: Sequence, tokens: int) -> None:
        """A pull ended: KV of so many leading tokens is here; at least one token is computed again."""
        self.batch.arrive(sequence, tokens)

    def release(self, sequence: Sequence, *, cold: bool = False) -> None:
        """Take back the blocks of a prompt that was handed over; cold ones are evicted first."""
        self.batch.give_back(sequence, cold=cold)
        sequence.stage = Stage.ENDED

    def keep(self, sequence: Sequence, target_tokens: int) -> bool:
        """Let a prompt that was to be handed over decode here, from the step just delivered on.

        Returns:
            Whether it is done already, since one token was asked for.
        """
        step = len(self.step_ends_s) - 1
        sequence.target_tokens = target_tokens
        if target_tokens == 1:
            sequence.spans.append((step, step))
            self.release(sequence)
            return True
        self.batch.rejoin(sequence)
        self._decode(sequence, step)
        return False

    def part_with(self, sequence: Sequence, now_s: float) -> Decoding:
        """Let a decoding sequence go after the step just delivered; it leaves its blocks behind.

        Returns:
            What it has behind it.
        """
        behind = self._behind(sequence, now_s)
        self.batch.leave_decodes(sequence, len(self.step_ends_s) - 1)
        self.batch.leave(sequence)
        self.release(sequence, cold=True)
        return behind

    def interrupt(self, now_s: float) -> float | None:
        """Let the step under way be the last one planned; returns its new end, None if that is as it was."""
        ends = self.step_ends_s
        last = bisect_left(ends, now_s, lo=self._begun - 1)
        if last >= len(ends) - 1:
            return None
        del ends[last + 1 :]
        self.cuts += 1
        return ends[last]

    # ------------------------------------------------------------------ what is seen

    def settle(self, now_s: float) -> None:
        """Book the steps that began before this moment."""
        ends = self.step_ends_s
        if self._begun < len(ends):
            self._settle_to(min(len(ends), bisect_left(ends, now_s, lo=self._begun - 1) + 1))

    def _settle_to(self, begun: int) -> None:
        steps = begun - self._begun
        if steps > 0:
            self.batch.advance(self._begun, steps)
            self._begun = begun

    def state(self, now_s: float) -> WorkerState:
        """Describe this worker at a moment."""
        self.settle(now_s)
        batch = self.batch
        return WorkerState(
            decode_count=batch.decode_count,
            decode_context_tokens=batch.decode_context_tokens,
            waiting_count=len(batch.waiting),
            pulling_count=batch.pulling_count,
            prefill_count=len(batch.prefilling),
            prefill_pending_tokens=batch.prefill_pending_tokens,
            free_blocks=self.cache.free_blocks,
            step_end_s=self.step_ends_s[self._begun - 1] if self.stepping else None,
        )

    def decodes(self, now_s: float) -> list[Decoding]:
        """List what the decoding sequences have behind them, here and before."""
        self.settle(now_s)
        return [self._behind(one, now_s) for one in self.batch.running if one.stage is Stage.DECODING]

    def _behind(self, sequence: Sequence, now_s: float) -> Decoding:
        before = sequence.behind
        return Decoding(
            written_tokens=before.written_tokens + self._begun - sequence.joined_step - 1,
            stalls_count=before.stalls_count + self.batch.stall_steps - sequence.stalls_before,
            elapsed_s=before.elapsed_s + now_s - self.step_ends_s[sequence.joined_step],
        )

    def running(self, now_s: float) -> list[Running]:
        """List the decoding sequences."""
        self.settle(now_s)
        step = self._begun - 1
        return [
            Running(job=one.job, context_tokens=one.total_tokens + step - one.joined_step)
            for one in self.batch.running
            if one.stage is Stage.DECODING
        ]

    # ------------------------------------------------------------------ steps

    def plan(self, now_s: float) -> tuple[float | None, list[Sequence]]:
        """Begin the next step, or a run of steps.

        Returns:
            When it ends (None: there is nothing to do), and the sequences whose blocks were just reserved,
            whose pulls may begin.
        """
        batch, ends, step = self.batch, self.step_ends_s, len(self.step_ends_s)
        pulls: list[Sequence] = []
        work = batch.begin(step)
        pulls += work.pulls
        while not work.decode_count and not work.chunks:
            if not work.preempted_count:
                return None, pulls
            work = batch.begin(step)
            pulls += work.pulls
        performance = self.timing.performance
        decode_s = performance.decode_s(
            sequence_count=work.decode_count, context_tokens=work.decode_context_tokens
        )
        self._prefill_s = performance.prefill_s(work.chunks)
        self.began_s = now_s
        self.stepping = True
        ends.append(now_s + (decode_s + self._prefill_s))
        self._begun = step + 1
        if not (work.chunks or batch.complete or work.preempted_count or self.is_watched):
            self._run_ahead(step)
        return ends[-1], pulls

    def _run_ahead(self, step: int) -> None:
        """Add the steps behind a first one that only decodes, up to the first end of a sequence."""
        batch, performance = self.batch, self.timing.performance
        steps = min(self._first_end() - step, self._run_steps_max - 1)
        steps = batch.steps_with_room(step + 1, steps)
        count, context = batch.decode_count, batch.decode_context_tokens
        fixed_s = performance.decode_step_s + performance.decode_sequence_s * count
        token_s, square_s = performance.decode_context_token_s, performance.decode_context_square_s
        append, end_s = self.step_ends_s.append, self.step_ends_s[step]
        least_s, last = performance.decode_least_s, context + count * steps
        # Time over context bends one way only: if both ends of the run are long enough, so is the middle.
        is_long = min(fixed_s + token_s * c + square_s * c * c for c in (context, last)) >= least_s
        for _ in range(steps):
            step_s = fixed_s + token_s * context + square_s * context * context
            end_s += step_s if is_long else max(step_s, least_s)
            append(end_s)
            context += count

    def _first_end(self) -> int:
        ending = self._ending
        while ending[0][2].end_step != ending[0][0]:
            heappop(ending)
        return ending[0][0]

    def deliver(self) -> Delivery:
        """End the step, or the run."""
        ends = self.step_ends_s
        self._settle_to(len(ends))
        self.stepping = False
        self.busy_s += ends[-1] - self.began_s
        self.prefill_busy_s += self._prefill_s
        step = len(ends) - 1
        delivery, batch = Delivery(), self.batch
        for sequence in self._ends_at(step):
            batch.leave_decodes(sequence, step)
            self._end(sequence, delivery)
        delivery.chunked = [sequence for sequence in batch.chunked if sequence.streams]
        for sequence in batch.complete:
            self._speak(sequence, step, delivery)
        batch.complete, batch.chunked = [], []
        return delivery

    def _ends_at(self, step: int) -> Iterator[Sequence]:
        ending = self._ending
        while ending and ending[0][0] <= step:
            end_step, _order, sequence = heappop(ending)
            if sequence.end_step == end_step:
                yield sequence

    def _speak(self, sequence: Sequence, step: int, delivery: Delivery) -> None:
        """Give a token to a sequence all of whose tokens have KV now."""
        sequence.emitted_tokens += 1
        if sequence.emitted_tokens == 1:
            delivery.first.append(sequence)
        if sequence.hands_over:
            sequence.stage = Stage.HELD
            self.batch.leave(sequence)
            delivery.prefilled.append(sequence)
        elif sequence.emitted_tokens >= sequence.target_tokens:
            sequence.spans.append((step, step))
            self._end(sequence, delivery)
        else:
            self._decode(sequence, step)

    def _end(self, sequence: Sequence, delivery: Delivery) -> None:
        self.batch.leave(sequence)
        self.batch.give_back(sequence)
        sequence.stage = Stage.ENDED
        delivery.ended.append(sequence)

    def _decode(self, sequence: Sequence, step: int) -> None:
        self.batch.join_decodes(sequence, step)
        heappush(self._ending, (sequence.end_step, sequence.order, sequence))
