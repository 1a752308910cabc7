"""Whose next step takes a prompt: kept jobs are held against every worker, the most urgent first.

Comes in: a fleet at one moment, offers in the order of the queue. Goes out: for each a bid, the cheapest way
in seconds of TTFT, its own and that of others. A prompt begins a worker's next step, joins those that begin
one (a step has a fixed cost, and one stall for several prompts spoils no more requests than for one of
them), or waits for a busy worker where that is shorter than any other way.
Invariants: a prompt joins only what it makes no step longer in number; what waits for a worker makes it busy
for longer in the eyes of those behind. Not here: the order of the queue (`baton_order`), who writes
(`baton_seats`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from services.domain.performance import PrefillChunk
from services.replay.policies.at_once import tie_break
from services.replay.policies.baton_offers import Offer, StallPrices
from services.replay.policies.baton_seats import Given
from services.replay.policy import Fleet
from services.replay.presets import EngineTiming


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Prompts that begin together with a worker's next step."""

    prompts_count: int
    new_tokens: int
    """To be computed, of all together."""
    prefill_s: float
    end_s: float
    stall_price_s: float
    """What they cost those who decode there."""

    def steps(self, timing: EngineTiming) -> int:
        """Count the steps in which they are computed."""
        return max(1, -(-self.new_tokens // timing.step_tokens_max))

    def joined_by(self, offer: Offer, worker: int, timing: EngineTiming) -> "Pack":
        """Add a prompt; what it costs those who decode is as before."""
        new_tokens = offer.new_tokens(worker, timing)
        performance, most = timing.performance, timing.step_tokens_max
        chunk = PrefillChunk(new_tokens=new_tokens, context_tokens=offer.job.prompt_tokens - new_tokens)
        more_s = (
            performance.steps_s(tokens=self.new_tokens + new_tokens, step_tokens_max=most)
            - performance.steps_s(tokens=self.new_tokens, step_tokens_max=most)
            + performance.chunk_s(chunk)
        )
        return replace(
            self,
            prompts_count=self.prompts_count + 1,
            new_tokens=self.new_tokens + new_tokens,
            prefill_s=self.prefill_s + more_s,
            end_s=self.end_s + more_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bid:
    """The cheapest way of one prompt.

    Attributes:
        worker: who would compute it.
        pack: it, and what it joins.
        price_s: seconds of TTFT, its own from now on and what it costs others.
        begins: whether the worker is to take it now; else it waits.
        long_gaps_count: gaps between tokens that it makes long, beside those that the pack did before.
    """

    worker: int
    pack: Pack
    price_s: float
    begins: bool
    long_gaps_count: int


class NextSteps:
    """All workers' next steps, as they fill up at one moment."""

    def __init__(
        self, fleet: Fleet, given: Sequence[Given], prices: StallPrices, now_s: float, *, held_count: int
    ) -> None:
        """Begin with nothing given away.

        Args:
            fleet: the workers.
            given: what each has been given before.
            prices: of stalls, at this moment.
            now_s: the moment.
            held_count: jobs in the queue.
        """
        workers = range(fleet.worker_count)
        self._timing = fleet.timing
        self._given = given
        self._prices = prices
        self._now_s = now_s
        self._held_count = held_count
        self._states = [fleet.state(worker) for worker in workers]
        self._free = {worker for worker in workers if not given[worker].prefilling}
        self._free_s = [self._free_at_s(worker) for worker in workers]
        self._packs: dict[int, Pack] = {}
        # Those without sequences first: if one of them will do, nobody needs to look at what decodes.
        self._order = sorted(workers, key=self._decodes)

    def has_room(self) -> bool:
        """Say whether any worker could take another prompt now."""
        if self._free:
            return True
        return any(pack.new_tokens < self._timing.step_tokens_max for pack in self._packs.values())

    def best(self, offer: Offer) -> Bid:
        """Find the cheapest way of a prompt."""
        best = self._alone(offer, self._order[0], float("inf"))
        for worker in self._order:
            for bid in self._bids(offer, worker, best.price_s):
                if self._rank(offer, bid) < self._rank(offer, best):
                    best = bid
        return best

    def take(self, offer: Offer, bid: Bid) -> None:
        """Give a prompt away, or let it wait for its worker."""
        worker = bid.worker
        self._free_s[worker] = bid.pack.end_s
        if not bid.begins or offer.fetches[worker]:
            self._packs.pop(worker, None)  # nobody joins what would make a third wait, or is not here yet
        else:
            self._packs[worker] = bid.pack
        if bid.begins:
            self._free.discard(worker)
            self._held_count -= 1

    def _rank(self, offer: Offer, bid: Bid) -> tuple[float, int, int]:
        return bid.price_s, tie_break(offer.job, bid.worker), bid.worker

    def _decodes(self, worker: int) -> bool:
        return self._states[worker].decode_count + len(self._given[worker].coming) > 0

    def _free_at_s(self, worker: int) -> float:
        """Say when a worker can begin another prompt."""
        given, end_s = self._given[worker], self._states[worker].step_end_s
        at_s = self._now_s if end_s is None else max(self._now_s, end_s)
        return max(at_s, given.prefill_end_s) if given.prefilling else at_s

    def _bids(self, offer: Offer, worker: int, most_s: float) -> Iterator[Bid]:
        """Price the ways of a prompt on one worker."""
        yield self._alone(offer, worker, most_s)
        pack = self._packs.get(worker)
        if pack is not None and not offer.fetches[worker]:
            joined = pack.joined_by(offer, worker, self._timing)
            room_tokens = pack.steps(self._timing) * self._timing.step_tokens_max
            if joined.new_tokens + self._states[worker].decode_count <= room_tokens:
                yield self._joined(offer, worker, pack, joined, most_s)

    def _alone(self, offer: Offer, worker: int, most_s: float) -> Bid:
        """Price steps of its own, when the worker is free."""
        prefill_s = offer.prefill_s[worker]
        pack = Pack(
            prompts_count=1,
            new_tokens=offer.new_tokens(worker, self._timing),
            prefill_s=prefill_s,
            end_s=self._free_s[worker] + prefill_s,
            stall_price_s=0.0,
        )
        return self._priced(worker, pack, None, pack.end_s - self._now_s, most_s)

    def _joined(self, offer: Offer, worker: int, pack: Pack, joined: Pack, most_s: float) -> Bid:
        """Price a place among those that begin now.

        Those who begin with it wait for longer; those left in the queue for less, as far as they wait for
        this worker.
        """
        more_s = joined.end_s - pack.end_s
        saved_s = (offer.prefill_s[worker] - more_s) * self._held_count / len(self._states)
        price_s = joined.end_s - self._now_s + more_s * pack.prompts_count - saved_s
        return self._priced(worker, joined, pack, price_s, most_s)

    def _priced(self, worker: int, pack: Pack, before: Pack | None, price_s: float, most_s: float) -> Bid:
        """Add to a price what the pack costs those who decode, beyond what it cost before.

        Above `most_s` the price is a lower bound.
        """
        state, steps = self._states[worker], pack.steps(self._timing)
        if price_s <= most_s and self._decodes(worker):
            paid_s = 0.0 if before is None else before.stall_price_s
            stall_price_s = self._prices.price_s(
                worker,
                state,
                self._given[worker].coming.values(),
                stall_s=pack.prefill_s,
                steps=steps,
                most_s=most_s - price_s + paid_s,
            )
            price_s += max(0.0, stall_price_s - paid_s)
            pack = replace(pack, stall_price_s=stall_price_s)
        more_steps = steps if before is None else steps - before.steps(self._timing)
        return Bid(
            worker=worker,
            pack=pack,
            price_s=price_s,
            begins=before is not None or worker in self._free,
            long_gaps_count=state.decode_count * more_steps,
        )
