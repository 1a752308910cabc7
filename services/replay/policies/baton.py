"""Baton's placement with everything it is to do: one configuration for every load, no ratio.

Comes in: jobs. Goes out: ways. One late-bound queue, shortest prefill first, but for those whose time is
about to run out (`baton_order`). Every worker may do both: decode workers fill up one after another
(`baton_seats`), and one that decodes takes a prompt where the wait it saves is worth more than the requests
it is expected to spoil (`baton_offers`). Prompts that fit one step share it where that is quicker for all
(`baton_steps`). Sequences leave workers that few of them hold (`baton_moves`). KV moves while prefill goes
on, missing prefixes are fetched from whoever has them, the first token is shown just in time, and copies left
behind by a handoff are evicted first.
Simulated only as yet: KV that moves during prefill, fetched prefixes, eviction on request, sequences that
move (docs/replay.md).
Invariant: a job is bound to a worker that computes no prompt, so that its own is part of that worker's next
step. Not here: the engine.
"""

from collections.abc import Sequence
from dataclasses import replace

from services.domain.spoiling import LengthRecord, spoilt_worth_s
from services.replay.policies.baton_coming import Coming
from services.replay.policies.baton_offers import Offer, StallPrices, make_offer, prompt_s
from services.replay.policies.baton_order import QueueOrder
from services.replay.policies.baton_seats import Given, Seats
from services.replay.policies.baton_steps import Bid, NextSteps
from services.replay.policies.options import PolicyOptions
from services.replay.policy import FirstToken, Fleet, Mechanisms, Move, Way
from services.replay.sequence import Job
from services.router.learning.tail_account import TailAccount

BATON = Mechanisms(
    first_token=FirstToken.JUST_IN_TIME, streams_kv=True, streams_layers=True, cools_handed_over=True
)


class Baton:
    """The policy."""

    def __init__(self, fleet: Fleet, options: PolicyOptions) -> None:
        """Begin with an empty queue."""
        self.mechanisms = options.mechanisms or BATON
        self._fleet = fleet
        self._options = options
        self._held: dict[int, Job] = {}
        self._offers: dict[int, Offer] = {}
        """The last ones of kept jobs."""
        self._shortest_s: dict[int, float] = {}
        """Of kept jobs: their prefill where it is shortest."""
        self._alone_s: dict[int, float] = {}
        """Of jobs whose prompt is not computed yet: the same, as it was when they came."""
        self._given = [Given() for _ in range(fleet.worker_count)]
        self._bound: dict[int, tuple[int, int | None]] = {}
        """Who computes a job's prompt, and who writes, if that is known."""
        self._lengths = LengthRecord()
        self._moving_tokens: dict[int, int] = {}
        """KV tokens of jobs that are about to decode elsewhere."""
        self._moves_looked_s = float("-inf")
        self._order = QueueOrder(options.ttft_slo_s)
        self._tail = TailAccount()
        self._seats = Seats(
            fleet, self._given, self._lengths, ttft_slo_s=options.ttft_slo_s, itl_slo_s=options.itl_slo_s
        )

    @property
    def held_count(self) -> int:
        """Jobs in the queue."""
        return len(self._held)

    def wake_s(self) -> float | None:
        """Never: a worker between two steps is asked for work anyway."""
        return None

    # ------------------------------------------------------------------ prompts

    def arrive(self, job: Job, now_s: float) -> Way | None:
        """Keep a job until a worker can begin it."""
        fleet = self._fleet
        best = max(fleet.overlap_blocks(worker, job.block_names) for worker in range(fleet.worker_count))
        prefill_s = prompt_s(fleet.timing, job, best)
        self._held[job.index], self._shortest_s[job.index] = job, prefill_s
        self._alone_s[job.index] = prefill_s
        self._seats.fold(job, best, prefill_s, now_s)
        return None

    def dispatch(self, now_s: float) -> Sequence[tuple[Job, Way]]:
        """Bind what workers can take into their next step, the most urgent first.

        A job for which waiting for a busy worker is shorter than any other way keeps its place there: later
        ones see that worker as busy for longer.
        """
        self._note_landings(now_s)
        prices = StallPrices(
            self._fleet,
            self._lengths,
            now_s,
            scarcity=self._tail.scarcity,
            spoilt_s=spoilt_worth_s(self._seats.wait_s, self._options.ttft_slo_s),
            itl_slo_s=self._options.itl_slo_s,
        )
        steps = NextSteps(self._fleet, self._given, prices, now_s, held_count=len(self._held))
        ways: list[tuple[Job, Way]] = []
        if not steps.has_room():
            return ways
        for job in sorted(self._held.values(), key=lambda job: (self._rank_s(job, now_s), job.index)):
            offer = self._offer(job, now_s)
            bid = steps.best(offer)
            steps.take(bid)
            if bid.begins:
                self._tail.stall(bid.long_gaps_count)
                ways.append((job, self._bind(offer, bid)))
            if not steps.has_room():
                break
        return ways

    def _offer(self, job: Job, now_s: float) -> Offer:
        offer = make_offer(self._fleet, job, now_s, self._offers.get(job.index))
        self._offers[job.index] = offer
        self._shortest_s[job.index] = min(offer.prefill_s)
        return offer

    def _rank_s(self, job: Job, now_s: float) -> float:
        return self._order.rank_s(self._shortest_s[job.index], now_s - job.arrival_s)

    def _bind(self, offer: Offer, bid: Bid) -> Way:
        job, worker = offer.job, bid.worker
        given, fetches = self._given[worker], offer.fetches[worker]
        for kept in (self._held, self._offers, self._shortest_s):
            del kept[job.index]
        given.prefilling.add(job.index)
        given.prompts_end_s, given.prefill_end_s = bid.step.prompts_end_s, bid.step.end_s
        if fetches:
            given.fetching = job.index
        self._bound[job.index] = (worker, None)
        return Way(
            prefill=worker,
            fetch_from=offer.holder if fetches else None,
            fetch_blocks=offer.leading_blocks[worker] if fetches else 0,
        )

    # ------------------------------------------------------------------ tokens

    def decode_worker(self, job: Job, prefill: int, now_s: float) -> int:
        """Choose who writes, when the prompt begins."""
        self._note_landings(now_s)
        worker = self._seats.choose(job, prefill, now_s)
        self._bound[job.index] = (prefill, worker)
        given = self._given[worker]
        given.coming[job.index] = self._seats.coming(worker, job, prefill, now_s)
        given.coming_tokens += job.prompt_tokens
        return worker

    def spoke(self, job: Job, now_s: float) -> None:
        """Learn that a prompt is computed: its KV is here, or the rest of it on its way."""
        prefill, decode = self._bound[job.index]
        self._order.fold(now_s - job.arrival_s)
        self._seats.fold_wait(max(0.0, now_s - job.arrival_s - self._alone_s.pop(job.index)))
        self._given[prefill].prefilling.discard(job.index)
        if decode is None or decode == prefill:
            self._arrived(job, prefill)
            return
        given = self._given[decode]
        coming = given.coming[job.index]
        at_s = now_s + coming.late_s
        given.coming[job.index] = replace(coming, at_s=at_s, is_shown=True)
        given.leaving_s[job.index] = (at_s, job)

    def _note_landings(self, now_s: float) -> None:
        """Take those whose KV should have come, and a step gone by since, for decoding."""
        for worker, given in enumerate(self._given):
            landed = [job for at_s, job in given.leaving_s.values() if at_s + self._options.itl_slo_s < now_s]
            for job in landed:
                self._arrived(job, worker)

    def _arrived(self, job: Job, worker: int) -> None:
        given = self._given[worker]
        given.leaving_s.pop(job.index, None)
        if given.coming.pop(job.index, None) is not None:
            given.coming_tokens -= job.prompt_tokens

    def moves(self, now_s: float) -> Sequence[Move]:
        """Choose sequences that go on elsewhere; looked for once in a TPOT target at most."""
        if now_s < self._moves_looked_s + self._options.itl_slo_s:
            return ()
        self._moves_looked_s = now_s
        self._note_landings(now_s)
        timing, at_s = self._fleet.timing, now_s
        moves = self._seats.moves(now_s)
        for move in moves:
            index, target = move.job.index, self._given[move.target]
            running = self._fleet.running(move.source)
            tokens = next(one.context_tokens for one in running if one.job.index == index)
            begin_s, at_s = at_s, at_s + timing.performance.transfer_s(tokens * timing.kv_bytes_per_token)
            self._moving_tokens[index] = tokens
            self._given[move.source].moving.add(index)
            target.coming[index] = Coming(at_s=at_s, is_shown=True, begin_s=begin_s, move_s=at_s - begin_s)
            target.coming_tokens += tokens
        return moves

    def moved(self, move: Move, now_s: float, *, is_there: bool) -> None:
        """Learn how a move ended."""
        index, target = move.job.index, self._given[move.target]
        self._given[move.source].moving.discard(index)
        del target.coming[index]
        target.coming_tokens -= self._moving_tokens.pop(index)
        if is_there:
            self._bound[index] = (self._bound[index][0], move.target)

    # ------------------------------------------------------------------ ends

    def ended(self, job: Job, now_s: float, output_tokens: int) -> None:
        """Learn how long an output was."""
        _, decode = self._bound.pop(job.index)
        self._lengths.fold(output_tokens)
        self._tail.write(output_tokens - 1)
        if decode is not None:
            self._arrived(job, decode)


def baton(fleet: Fleet, options: PolicyOptions) -> Baton:
    """Make the policy; a fixed split does not apply."""
    return Baton(fleet, options)
