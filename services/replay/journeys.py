"""The way of each request: prefill, handoff, decode, end.

Comes in: ways, and what workers delivered. Goes out: records, and work for workers and links.
Invariants: a request is at one worker at a time, at two during a handoff; blocks that somebody reads stay
until the transfer ended; a request ends once. Not here: where it goes (`policy`), the clock (`agenda`).
"""

from array import array

from services.domain.first_gap import first_gap_max_s
from services.domain.spoiling import LengthRecord
from services.replay.agenda import Agenda, Happening
from services.replay.fleet import PresentFleet
from services.replay.moves import Relocations
from services.replay.policy import FirstToken, Mover, Policy, Way
from services.replay.presets import EngineTiming
from services.replay.records import Record
from services.replay.sequence import Job, Sequence
from services.replay.transfers import Fetch, Handoff, Links
from services.replay.worker import Delivery, Worker


class Journeys:
    """All requests of one replay."""

    def __init__(
        self,
        agenda: Agenda,
        fleet: PresentFleet,
        policy: Policy,
        *,
        workers: list[Worker],
        records: list[Record],
        itl_slo_s: float,
    ) -> None:
        """Begin with no request.

        Args:
            agenda: of the replay.
            fleet: the workers as they are.
            policy: asked for decode workers, told of ends.
            workers: by number.
            records: by number of the request.
            itl_slo_s: longest gap aimed at, also behind a just-in-time first token.
        """
        self.records = records
        self.queue_times_s, self.queue_counts = array("d"), array("l")
        """How many requests had no computed prompt, after each change."""
        self.ended_count = 0
        self._agenda = agenda
        self._fleet = fleet
        self._policy = policy
        self._workers = workers
        self._timing: EngineTiming = fleet.timing
        self._itl_slo_s = itl_slo_s
        self._lengths = LengthRecord()
        self._links = Links(len(workers), fleet.timing, policy.mechanisms)
        self._handoffs: dict[int, Handoff] = {}
        self._fetches: dict[int, Fetch] = {}
        self._ways: dict[int, Way] = {}
        self._unprefilled = 0
        self.moves = self._relocations(policy) if isinstance(policy, Mover) else None
        """Of sequences that decode."""

    def _relocations(self, mover: Mover) -> Relocations:
        return Relocations(
            mover,
            self._agenda,
            self._fleet,
            self._links,
            workers=self._workers,
            records=self.records,
            itl_slo_s=self._itl_slo_s,
            submit=self._submit,
        )

    def start(self, job: Job, way: Way) -> None:
        """Send a job on its way."""
        record, mechanisms = self.records[job.index], self._policy.mechanisms
        record.prefill_worker = way.prefill
        target = way.decode
        if target is None and mechanisms.streams_kv:
            target = self._policy.decode_worker(job, way.prefill, self._agenda.now_s)
        stays = target == way.prefill
        fetches = way.fetch_from is not None and way.fetch_from != way.prefill and way.fetch_blocks > 0
        sequence = Sequence(
            job=job,
            target_tokens=record.output_tokens if stays else 1,
            hands_over=not stays,
            streams=mechanisms.streams_kv and not stays,
            pulls=fetches,
        )
        if fetches and way.fetch_from is not None:
            self._fetches[job.index] = Fetch(
                source=way.fetch_from, wanted_blocks=way.fetch_blocks, puller=way.prefill, sequence=sequence
            )
        if not stays:
            self._ways[job.index] = way
            if target is not None and mechanisms.streams_kv:
                self._hand_over(sequence, way.prefill, target)
        self._submit(way.prefill, sequence)

    def _submit(self, index: int, sequence: Sequence) -> None:
        worker = self._workers[index]
        worker.submit(sequence)
        self._agenda.touch(worker)

    def _hand_over(self, prefill: Sequence, source: int, target: int) -> Handoff:
        """Ask the decode worker for room."""
        job, record = prefill.job, self.records[prefill.job.index]
        spoke = self._policy.mechanisms.first_token is not FirstToken.DECODE
        decode = Sequence(
            job=job, target_tokens=record.output_tokens, emitted_tokens=1 if spoke else 0, pulls=True
        )
        handoff = Handoff(source=source, target=target, prefill=prefill, decode=decode)
        self._handoffs[job.index] = handoff
        if record.output_tokens > decode.emitted_tokens:
            self._submit(target, decode)
        return handoff

    def deliver(self, worker: Worker, delivery: Delivery) -> None:
        """Take what ended with a step of a worker."""
        for sequence in delivery.first:
            index = sequence.job.index
            if index not in self._handoffs or sequence is not self._handoffs[index].decode:
                self._prefilled(sequence)
        for sequence in delivery.chunked:
            handoff = self._handoffs.get(sequence.job.index)
            if handoff is not None and sequence is handoff.prefill:
                handoff.ready_tokens = sequence.computed_tokens
                self._send(handoff, worker.began_s)
        for sequence in delivery.prefilled:
            self._leave_prefill(worker, sequence)
        for sequence in delivery.ended:
            self._end(worker.index, sequence)
        if self.moves is not None:
            self.moves.step_ended(worker)
            if delivery.first or delivery.ended:
                self.moves.ask()

    def _prefilled(self, sequence: Sequence) -> None:
        record = self.records[sequence.job.index]
        record.cached_tokens = sequence.cached_tokens or 0
        record.prefilled_s = self._agenda.now_s
        self.note_queue(-1)
        self._policy.spoke(sequence.job, self._agenda.now_s)

    def _leave_prefill(self, worker: Worker, sequence: Sequence) -> None:
        """A prompt that is to be handed over is computed: where to?"""
        job = sequence.job
        record, way = self.records[job.index], self._ways.pop(job.index)
        first = self._policy.mechanisms.first_token
        if record.output_tokens == 1 and first is not FirstToken.DECODE:
            self._handoffs.pop(job.index, None)
            worker.release(sequence)
            record.first_s = self._agenda.now_s
            self._end(worker.index, sequence)
            return
        handoff = self._handoffs.get(job.index)
        if handoff is None:
            target = way.decode
            if target is None:
                target = self._policy.decode_worker(job, worker.index, self._agenda.now_s)
            if target == worker.index:
                if worker.keep(sequence, record.output_tokens):
                    self._end(worker.index, sequence)
                return
            handoff = self._hand_over(sequence, worker.index, target)
        handoff.prefilled, handoff.ready_tokens = True, job.prompt_tokens
        self._send(handoff, worker.began_s)
        if first is not FirstToken.DECODE:
            record.first_s = self._agenda.now_s
        if first is FirstToken.JUST_IN_TIME:
            record.first_s = max(self._agenda.now_s, self._just_in_time_s(handoff))

    def _just_in_time_s(self, handoff: Handoff) -> float:
        """Say from when on a first token may be shown.

        The second is expected one step after the KV can join: with the next step, if it is there before that
        begins, else within another.
        """
        state, now_s = self._fleet.state(handoff.target), self._agenda.now_s
        tokens = handoff.prefill.job.prompt_tokens + 1
        step_s = self._timing.performance.decode_s(
            sequence_count=state.decode_count + 1, context_tokens=state.decode_context_tokens + tokens
        )
        free_s = now_s if state.step_end_s is None else state.step_end_s
        here_s = self._links.expected_end_s(handoff, now_s)
        joins_s = free_s if here_s < free_s else here_s + (step_s if state.decode_count else 0.0)
        second_s = joins_s + step_s
        return second_s - first_gap_max_s(
            output_tokens=self._lengths.mean_tokens, step_s=step_s, tpot_target_s=self._itl_slo_s
        )

    def reserved(self, worker: Worker, sequence: Sequence) -> None:
        """A worker has room for what a sequence pulls."""
        index = sequence.job.index
        if self.moves is not None and self.moves.reserved(sequence):
            return
        fetch = self._fetches.get(index)
        if fetch is not None and fetch.sequence is sequence:
            source = self._workers[fetch.source]
            source.settle(self._agenda.now_s)
            self._agenda.touch(source)
            fetch.pinned_blocks = source.cache.pin(sequence.names, fetch.wanted_blocks)
            moved = max(0, fetch.pinned_blocks - sequence.shared_blocks) * self._timing.block_bytes
            self.records[index].moved_bytes += moved
            end_s = self._links.move(worker.index, moved, self._agenda.now_s) if moved else self._agenda.now_s
            self._agenda.note(end_s, Happening.FETCH_END, index)
            return
        handoff = self._handoffs[index]
        self._links.reserve(handoff, self._agenda.now_s)
        self._send(handoff, None)

    def _send(self, handoff: Handoff, began_s: float | None) -> None:
        end_s = self._links.send(handoff, self._agenda.now_s, began_s)
        if end_s is not None:
            self._agenda.note(end_s, Happening.HANDOFF_END, handoff.prefill.job.index)

    def end_handoff(self, index: int) -> None:
        """The KV of a prompt has arrived."""
        handoff = self._handoffs[index]
        self.records[index].moved_bytes += handoff.moved_bytes
        source, target = self._workers[handoff.source], self._workers[handoff.target]
        source.release(handoff.prefill, cold=self._policy.mechanisms.cools_handed_over)
        if source.batch.waiting:
            self._agenda.touch(source)
        target.arrive(handoff.decode, handoff.prefill.job.prompt_tokens)
        self._agenda.touch(target)

    def end_fetch(self, index: int) -> None:
        """A fetched prefix has arrived."""
        fetch = self._fetches.pop(index)
        source, puller = self._workers[fetch.source], self._workers[fetch.puller]
        source.cache.release(fetch.sequence.names, fetch.pinned_blocks, 0)
        if source.batch.waiting:
            self._agenda.touch(source)
        blocks = max(fetch.pinned_blocks, fetch.sequence.shared_blocks)
        puller.arrive(fetch.sequence, blocks * self._timing.block_size_tokens)
        self._agenda.touch(puller)

    def _end(self, index: int, sequence: Sequence) -> None:
        record = self.records[sequence.job.index]
        if self.moves is not None:
            self.moves.ended(sequence)
        record.decode_worker = index
        record.spans += [(index, *span) for span in sequence.spans]
        if record.first_s is not None and record.spans:
            worker, step, _ = record.spans[0]
            second_s = self._workers[worker].step_ends_s[step]
            record.first_s = min(record.first_s, second_s)  # a token that waited for it waits no longer
        record.ended_s = self._agenda.now_s
        self._handoffs.pop(sequence.job.index, None)
        self.ended_count += 1
        self._lengths.fold(record.output_tokens)
        self._policy.ended(sequence.job, self._agenda.now_s, record.output_tokens)

    def note_queue(self, change: int) -> None:
        """Count a request without a computed prompt more (1) or less (-1)."""
        self._unprefilled += change
        self.queue_times_s.append(self._agenda.now_s)
        self.queue_counts.append(self._unprefilled)
