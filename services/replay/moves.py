"""Sequences that change over to another worker while they decode.

Comes in: moves a policy wants, ends of steps. Goes out: work for workers and links. The target reserves
blocks, KV is copied while the source goes on, and between two tokens the target takes over: after the first
step of the source whose next token can follow within the ITL target. What was written meanwhile is little and
goes along for nothing.
Invariants: of the two exactly one decodes; a move whose sequence ends or loses its blocks meanwhile, or for
which the target has no room, leaves everything as it was.
Simulated only: no engine here copies KV of a sequence that decodes. Not here: which ones (`policy`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from services.replay.agenda import Agenda, Happening
from services.replay.fleet import PresentFleet
from services.replay.policy import Move, Mover
from services.replay.records import Record
from services.replay.sequence import Sequence, Stage
from services.replay.transfers import Links
from services.replay.worker import Worker

STEPS_MAX = 20
"""Steps for which a source goes on, at most, until the target can follow in time; then it follows late."""


@dataclass(slots=True, eq=False, kw_only=True)
class Relocation:
    """One move under way.

    Attributes:
        number: of this move; a later one of the same sequence has another.
        move: from where to where.
        leaving: decodes at the source.
        arriving: holds blocks at the target.
        is_copied: the KV is there.
        steps: of the source since then.
    """

    number: int
    move: Move
    leaving: Sequence
    arriving: Sequence
    is_copied: bool = False
    steps: int = 0


class Relocations:
    """All moves of one replay."""

    def __init__(
        self,
        mover: Mover,
        agenda: Agenda,
        fleet: PresentFleet,
        links: Links,
        *,
        workers: list[Worker],
        records: list[Record],
        itl_slo_s: float,
        submit: Callable[[int, Sequence], None],
    ) -> None:
        """Begin with none.

        Args:
            mover: names them, and is told how they end.
            agenda: of the replay.
            fleet: the workers as they are.
            links: between workers.
            workers: by number.
            records: by number of the request.
            itl_slo_s: longest gap aimed at.
            submit: gives a sequence to a worker.
        """
        self.done_count = 0
        self._mover = mover
        self._agenda = agenda
        self._fleet = fleet
        self._links = links
        self._workers = workers
        self._records = records
        self._itl_slo_s = itl_slo_s
        self._submit = submit
        self._begun_count = 0
        self._open: dict[int, Relocation] = {}

    def ask(self) -> None:
        """Begin what the policy wants."""
        for move in self._mover.moves(self._agenda.now_s):
            self._begin(move)

    def _begin(self, move: Move) -> None:
        source, index = self._workers[move.source], move.job.index
        context = next(
            one.context_tokens for one in source.running(self._agenda.now_s) if one.job is move.job
        )
        leaving = next(one for one in source.batch.running if one.job is move.job)
        arriving = Sequence(
            job=move.job,
            target_tokens=leaving.target_tokens,
            emitted_tokens=context - move.job.prompt_tokens,
            pulls=True,
        )
        self._begun_count += 1
        self._open[index] = Relocation(
            number=self._begun_count, move=move, leaving=leaving, arriving=arriving
        )
        self._submit(move.target, arriving)

    def reserved(self, sequence: Sequence) -> bool:
        """Send the KV of a sequence for which its target has room; says whether it is one that moves."""
        found = self._open.get(sequence.job.index)
        if found is None or found.arriving is not sequence:
            return False
        timing = self._fleet.timing
        moved = (sequence.held_blocks - sequence.shared_blocks) * timing.block_bytes
        self._records[sequence.job.index].moved_bytes += moved
        end_s = self._links.move(found.move.target, moved, self._agenda.now_s) + timing.performance.handoff_s
        self._agenda.note(end_s, Happening.MOVE_END, sequence.job.index, found.number)
        return True

    def copied(self, index: int, number: int) -> None:
        """The KV of a sequence has arrived: from now on each step of its source may be its last there."""
        found = self._open.get(index)
        if found is None or found.number != number:
            return
        found.is_copied = True
        source = self._workers[found.move.source]
        source.is_watched = True
        self._agenda.touch(source)

    def step_ended(self, worker: Worker) -> None:
        """Let those change over that can, after a step of their source."""
        if not worker.is_watched:
            return
        here = [one for one in self._open.values() if one.move.source == worker.index and one.is_copied]
        for one in here:
            self._change_over(one, worker)
        worker.is_watched = any(one.move.job.index in self._open for one in here)

    def _change_over(self, one: Relocation, source: Worker) -> None:
        leaving, arriving, move = one.leaving, one.arriving, one.move
        now_s, target = self._agenda.now_s, self._workers[move.target]
        if leaving.stage is not Stage.DECODING:
            self._give_up(one)
            return
        total = leaving.total_tokens + len(source.step_ends_s) - 1 - leaving.joined_step
        if one.steps < STEPS_MAX and self._next_token_s(move.target, total) > now_s + self._itl_slo_s:
            one.steps += 1
            return
        target.settle(now_s)
        lacks = -(-total // target.timing.block_size_tokens) - arriving.held_blocks
        if not target.cache.grow(lacks):
            self._give_up(one)
            return
        arriving.held_blocks += lacks
        del self._open[move.job.index]
        self.done_count += 1
        arriving.behind = source.part_with(leaving, now_s)
        arriving.emitted_tokens = leaving.emitted_tokens
        self._records[move.job.index].spans += [(move.source, *span) for span in leaving.spans]
        target.arrive(arriving, total)
        self._agenda.touch(target)
        self._mover.moved(move, now_s, is_there=True)

    def _next_token_s(self, target: int, context_tokens: int) -> float:
        """Say when a target that takes over now would have the next token."""
        state, now_s = self._fleet.state(target), self._agenda.now_s
        free_s = now_s if state.step_end_s is None else state.step_end_s
        return free_s + self._fleet.timing.performance.decode_s(
            sequence_count=state.decode_count + 1, context_tokens=state.decode_context_tokens + context_tokens
        )

    def ended(self, sequence: Sequence) -> None:
        """Forget the move of a sequence that is over."""
        found = self._open.get(sequence.job.index)
        if found is not None:
            self._give_up(found)

    def _give_up(self, one: Relocation) -> None:
        del self._open[one.move.job.index]
        target = self._workers[one.move.target]
        target.settle(self._agenda.now_s)
        target.batch.withdraw(one.arriving)
        self._agenda.touch(target)
        self._mover.moved(one.move, self._agenda.now_s, is_there=False)
