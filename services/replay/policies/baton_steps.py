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

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.domain.performance import PrefillChunk
from services.domain.together import Together
from services.replay.policies.at_once import tie_break
from services.replay.policies.baton_offers import Offer, StallPrices
from services.replay.policies.baton_seats import Given
from services.replay.policy import Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """What one worker is to begin with: prompts computed together, then one whose prefix is fetched."""

    begin_s: float
    prompts: Together
    """Computed together."""
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
        return not self.prompts.prompts_count and not self.fetched_steps

    @property
    def prompts_end_s(self) -> float:
        """When those computed together are done."""
        return self.begin_s + self.prompts.prefill_s

    @property
    def end_s(self) -> float:
        """When all is done."""
        return self.begin_s + max(self.prompts.prefill_s, self.fetch_s) + self.fetched_s

    @property
    def stall_s(self) -> float:
        """What computing takes."""
        return self.prompts.prefill_s + self.fetched_s

    @property
    def steps_count(self) -> int:
        """Steps that compute."""
        return self.prompts.steps_count + self.fetched_steps

    def with_prompt(self, offer: Offer, worker: int, stall_price_s: float = 0.0) -> "NextStep":
        """Add a prompt; all of it costs `stall_price_s` then."""
        new_tokens = offer.new_tokens[worker]
        if offer.fetches[worker]:
            return NextStep(
                begin_s=self.begin_s,
                prompts=self.prompts,
                fetch_s=offer.fetch_s[worker],
                fetched_s=offer.compute_s[worker],
                fetched_steps=-(-new_tokens // self.prompts.step_tokens_max),
                stall_price_s=stall_price_s,
            )
        chunk = PrefillChunk(new_tokens=new_tokens, context_tokens=offer.job.prompt_tokens - new_tokens)
        return NextStep(
            begin_s=self.begin_s,
            prompts=self.prompts.with_prompt(chunk),
            fetch_s=self.fetch_s,
            fetched_s=self.fetched_s,
            fetched_steps=self.fetched_steps,
            stall_price_s=stall_price_s,
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
        workers, timing = range(fleet.worker_count), fleet.timing
        self._given = given
        self._prices = prices
        self._now_s = now_s
        self._held_count = held_count
        self._most = timing.step_tokens_max
        self._nobody = Together(performance=timing.performance, step_tokens_max=self._most)
        self._states = [fleet.state(worker) for worker in workers]
        self._decodes = [self._states[w].decode_count + len(given[w].coming) > 0 for w in workers]
        self._free_s = [self._free_at_s(worker) for worker in workers]
        self._open = {
            worker: NextStep(begin_s=self._free_s[worker], prompts=self._nobody)
            for worker in workers
            if not given[worker].prefilling
        }
        # Those without sequences first, then the soonest: if they will do, few need to look at what decodes.
        self._order = sorted(workers, key=lambda worker: (self._decodes[worker], self._free_s[worker]))

    def has_room(self) -> bool:
        """Say whether any worker could take another prompt now."""
        return any(step.prompts.new_tokens < self._most for step in self._open.values())

    def best(self, offer: Offer) -> Bid:
        """Find the cheapest way of a prompt.

        Ways that another one beats already are not made into bids: each prompt that is kept is held against
        each worker at each moment.
        """
        best: Bid | None = None
        for worker in self._order:
            for way in (self._alone, self._joined):
                bid = way(offer, worker, float("inf") if best is None else best.price_s)
                if bid is not None and (best is None or self._rank(offer, bid) < self._rank(offer, best)):
                    best = bid
        if best is None:
            raise ValueError("a fleet has at least one worker")
        return best

    def take(self, bid: Bid) -> None:
        """Give a prompt away, or let it wait for its worker."""
        self._free_s[bid.worker] = bid.step.end_s
        if bid.begins:
            self._open[bid.worker] = bid.step
            self._held_count -= 1
        else:
            self._open.pop(bid.worker, None)  # what joined now would make the one that waits do so for longer

    def _free_at_s(self, worker: int) -> float:
        """Say when a worker can begin another prompt."""
        given, end_s = self._given[worker], self._states[worker].step_end_s
        at_s = self._now_s if end_s is None else max(self._now_s, end_s)
        return max(at_s, given.prefill_end_s) if given.prefilling else at_s

    def _alone(self, offer: Offer, worker: int, most_s: float) -> Bid | None:
        """Price steps of its own, now or when a worker is free; None above `most_s`."""
        begin_s = self._free_s[worker]
        end_s = begin_s + offer.fetch_s[worker] + offer.compute_s[worker]
        price_s = end_s - self._now_s + self._held_up_s(worker, end_s - begin_s)
        if price_s > most_s:
            return None
        steps_count = -(-offer.new_tokens[worker] // self._most)
        stall_price_s = self._stall_price_s(
            worker, stall_s=offer.compute_s[worker], steps_count=steps_count, most_s=most_s - price_s
        )
        price_s += stall_price_s
        if price_s > most_s:
            return None
        open_step = self._open.get(worker)
        return Bid(
            worker=worker,
            step=NextStep(begin_s=begin_s, prompts=self._nobody).with_prompt(offer, worker, stall_price_s),
            price_s=price_s,
            begins=open_step is not None and open_step.is_empty,
            long_gaps_count=self._states[worker].decode_count * steps_count,
        )

    def _joined(self, offer: Offer, worker: int, most_s: float) -> Bid | None:
        """Price a place among those that begin now; None where there is none, or above `most_s`.

        Those who begin with it wait for longer.
        """
        step = self._open.get(worker)
        if step is None or step.is_empty or not self._fits(offer, worker, step):
            return None
        whole = step.with_prompt(offer, worker)
        later_s, fetches = whole.end_s - step.end_s, offer.fetches[worker]
        own_s = (whole.end_s if fetches else whole.prompts_end_s) - self._now_s
        others_s = step.prompts.prompts_count * (whole.prompts_end_s - step.prompts_end_s)
        if step.fetched_steps:
            others_s += later_s
        price_s = own_s + others_s + self._held_up_s(worker, later_s)
        if price_s > most_s:
            return None
        stall_price_s = self._stall_price_s(
            worker,
            stall_s=whole.stall_s,
            steps_count=whole.steps_count,
            most_s=most_s - price_s + step.stall_price_s,
        )
        return Bid(
            worker=worker,
            step=replace(whole, stall_price_s=stall_price_s),
            price_s=price_s + max(0.0, stall_price_s - step.stall_price_s),
            begins=True,
            long_gaps_count=self._states[worker].decode_count * (whole.steps_count - step.steps_count),
        )

    def _fits(self, offer: Offer, worker: int, step: NextStep) -> bool:
        """Say whether a prompt can join others in the steps that these take."""
        decode_count = self._states[worker].decode_count
        if offer.fetches[worker]:  # the engine admits it with the step that begins
            return not step.fetched_steps and step.prompts.new_tokens + decode_count < self._most
        return step.prompts.fits(offer.new_tokens[worker], decode_count=decode_count)

    def _held_up_s(self, worker: int, duration_s: float) -> float:
        """Say what those left in the queue wait for longer, together, when a worker is taken for so long.

        One that decodes would take few of them.
        """
        if self._decodes[worker]:
            return 0.0
        return duration_s * max(0, self._held_count - 1) / len(self._states)

    def _stall_price_s(self, worker: int, *, stall_s: float, steps_count: int, most_s: float) -> float:
        """Price what a step costs those who decode; above `most_s` a lower bound."""
        if not self._decodes[worker]:
            return 0.0
        coming = self._given[worker].coming.values()
        return self._prices.price_s(
            worker, self._states[worker], coming, stall_s=stall_s, steps=steps_count, most_s=most_s
        )

    def _rank(self, offer: Offer, bid: Bid) -> tuple[float, int, int]:
        return bid.price_s, tie_break(offer.job, bid.worker), bid.worker
