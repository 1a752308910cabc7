"""Whose next step takes a prompt: kept jobs are held against every worker, the most urgent first.

Comes in: a fleet at one moment, offers in the order of the queue. Goes out: for each a bid, the cheapest way
in seconds of TTFT, its own and that of others. A prompt begins a worker's next step, or joins those that
begin one: a step has a fixed cost, one stall for several prompts spoils no more requests than for one of
them, and a prefix can be fetched while another prompt is computed. Or it waits for a worker, where that is
shorter than any other way.
Invariants: a prompt joins others only in steps that these take anyway; what waits for a worker makes it busy
for longer in the eyes of those behind. Not here: the order of the queue (`baton_order`), who writes
(`baton_seats`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from services.domain.performance import PrefillChunk
from services.replay.policies.at_once import tie_break
from services.replay.policies.baton_offers import Offer, StallPrices, prompt_s
from services.replay.policies.baton_seats import Given
from services.replay.policy import Fleet
from services.replay.presets import EngineTiming


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """What one worker is to begin with: prompts computed together, then one whose prefix is fetched."""

    begin_s: float
    prompts_count: int = 0
    """Computed together."""
    new_tokens: int = 0
    """Of these."""
    prefill_s: float = 0.0
    """Of these."""
    fetch_s: float = 0.0
    """Until a prefix is here that is fetched meanwhile."""
    fetched_s: float = 0.0
    """Prefill behind that prefix."""
    fetched_steps: int = 0
    stall_price_s: float = 0.0
    """What all of it costs those who decode there."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing yet."""
        return not self.prompts_count and not self.fetched_steps

    @property
    def prompts_end_s(self) -> float:
        """When those computed together are done."""
        return self.begin_s + self.prefill_s

    @property
    def end_s(self) -> float:
        """When all is done."""
        return self.begin_s + max(self.prefill_s, self.fetch_s) + self.fetched_s

    def steps(self, timing: EngineTiming) -> int:
        """Count the steps that compute prompts."""
        return -(-self.new_tokens // timing.step_tokens_max) + self.fetched_steps

    def with_prompt(self, offer: Offer, worker: int, timing: EngineTiming) -> "NextStep":
        """Add a prompt whose prefix needs no fetching."""
        new_tokens = offer.new_tokens(worker, timing)
        performance, most = timing.performance, timing.step_tokens_max
        chunk = PrefillChunk(new_tokens=new_tokens, context_tokens=offer.job.prompt_tokens - new_tokens)
        before_s = performance.steps_s(tokens=self.new_tokens, step_tokens_max=most)
        after_s = performance.steps_s(tokens=self.new_tokens + new_tokens, step_tokens_max=most)
        return replace(
            self,
            prompts_count=self.prompts_count + 1,
            new_tokens=self.new_tokens + new_tokens,
            prefill_s=self.prefill_s + after_s - before_s + performance.chunk_s(chunk),
        )

    def with_fetched(self, offer: Offer, worker: int, timing: EngineTiming) -> "NextStep":
        """Add one whose prefix is fetched."""
        fetched_s = prompt_s(timing, offer.job, offer.leading_blocks[worker])
        return replace(
            self,
            fetch_s=offer.prefill_s[worker] - fetched_s,
            fetched_s=fetched_s,
            fetched_steps=-(-offer.new_tokens(worker, timing) // timing.step_tokens_max),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bid:
    """One way of a prompt.

    Attributes:
        worker: who would compute it.
        step: what that worker would begin with; of one that waits, it alone.
        price_s: seconds of TTFT, its own from now on and what it costs others.
        begins: whether the worker is to take it now; else it waits.
        long_gaps_count: gaps between tokens that it makes long, beside those that are long without it.
    """

    worker: int
    step: NextStep
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
        self._free_s = [self._free_at_s(worker) for worker in workers]
        self._open = {
            worker: NextStep(begin_s=self._free_s[worker])
            for worker in workers
            if not given[worker].prefilling
        }
        # Those without sequences first: if one of them will do, nobody needs to look at what decodes.
        self._order = sorted(workers, key=self._decodes)

    def has_room(self) -> bool:
        """Say whether any worker could take another prompt now."""
        return any(step.new_tokens < self._timing.step_tokens_max for step in self._open.values())

    def best(self, offer: Offer) -> Bid:
        """Find the cheapest way of a prompt."""
        best = next(iter(self._bids(offer, self._order[0], float("inf"))))
        for worker in self._order:
            for bid in self._bids(offer, worker, best.price_s):
                if self._rank(offer, bid) < self._rank(offer, best):
                    best = bid
        return best

    def take(self, bid: Bid) -> None:
        """Give a prompt away, or let it wait for its worker."""
        self._free_s[bid.worker] = bid.step.end_s
        if bid.begins:
            self._open[bid.worker] = bid.step
            self._held_count -= 1
        else:
            self._open.pop(bid.worker, None)  # what joined now would make the one that waits do so for longer

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
        step = self._open.get(worker)
        if step is None or not step.is_empty:
            yield self._alone(offer, worker, NextStep(begin_s=self._free_s[worker]), most_s, begins=False)
        if step is None:
            return
        if step.is_empty:
            yield self._alone(offer, worker, step, most_s, begins=True)
        elif self._fits(offer, worker, step):
            yield self._joined(offer, worker, step, most_s)

    def _fits(self, offer: Offer, worker: int, step: NextStep) -> bool:
        """Say whether a prompt can join others in the steps that these take."""
        tokens = step.new_tokens + self._states[worker].decode_count
        most = self._timing.step_tokens_max
        if offer.fetches[worker]:
            return not step.fetched_steps and tokens < most  # the engine admits it with the step that begins
        room_tokens = max(1, -(-step.new_tokens // most)) * most
        return tokens + offer.new_tokens(worker, self._timing) <= room_tokens

    def _with(self, offer: Offer, worker: int, step: NextStep) -> NextStep:
        add = step.with_fetched if offer.fetches[worker] else step.with_prompt
        return add(offer, worker, self._timing)

    def _alone(self, offer: Offer, worker: int, step: NextStep, most_s: float, *, begins: bool) -> Bid:
        """Price steps of its own."""
        whole = self._with(offer, worker, step)
        price_s = whole.end_s - self._now_s + self._held_up_s(worker, whole.end_s - step.begin_s)
        return self._priced(worker, whole, step, price_s, most_s, begins=begins)

    def _joined(self, offer: Offer, worker: int, step: NextStep, most_s: float) -> Bid:
        """Price a place among those that begin now.

        Those who begin with it wait for longer.
        """
        whole = self._with(offer, worker, step)
        later_s, fetches = whole.end_s - step.end_s, offer.fetches[worker]
        own_s = (whole.end_s if fetches else whole.prompts_end_s) - self._now_s
        others_s = step.prompts_count * (whole.prompts_end_s - step.prompts_end_s)
        if step.fetched_steps:
            others_s += later_s
        price_s = own_s + others_s + self._held_up_s(worker, later_s)
        return self._priced(worker, whole, step, price_s, most_s, begins=True)

    def _held_up_s(self, worker: int, duration_s: float) -> float:
        """Say what those left in the queue wait for longer, together, when a worker is taken for so long.

        One that decodes would take few of them.
        """
        if self._decodes(worker):
            return 0.0
        return duration_s * max(0, self._held_count - 1) / len(self._states)

    def _priced(
        self, worker: int, step: NextStep, before: NextStep, price_s: float, most_s: float, *, begins: bool
    ) -> Bid:
        """Add to a price what a step costs those who decode, beyond what it cost before.

        Above `most_s` the price is a lower bound.
        """
        state, steps = self._states[worker], step.steps(self._timing)
        if price_s <= most_s and self._decodes(worker):
            stall_price_s = self._prices.price_s(
                worker,
                state,
                self._given[worker].coming.values(),
                stall_s=step.prefill_s + step.fetched_s,
                steps=steps,
                most_s=most_s - price_s + before.stall_price_s,
            )
            price_s += max(0.0, stall_price_s - before.stall_price_s)
            step = replace(step, stall_price_s=stall_price_s)
        return Bid(
            worker=worker,
            step=step,
            price_s=price_s,
            begins=begins,
            long_gaps_count=state.decode_count * (steps - before.steps(self._timing)),
        )
