"""What a prompt takes on each worker, fetches included, and what it does to those who decode there.

Comes in: a fleet, jobs. Goes out: offers and prices in seconds. Invariant: nothing is bound here; a look at
the caches is at most `OFFER_AGE_S` old, which costs cached blocks at worst. Not here: the choice (`baton`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.domain.spoiling import TAIL_FRAC, LengthRecord, Standing, spoilt_count, step_gain_s
from services.replay.policies.baton_coming import Coming
from services.replay.policy import Fleet, WorkerState
from services.replay.presets import EngineTiming
from services.replay.sequence import Job

OFFER_AGE_S = 0.1
"""A kept job's offer is made again when it is older: about one prompt's prefill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One kept job on every worker."""

    job: Job
    at_s: float
    """When it was made."""
    prefill_s: list[float]
    """By worker, a fetch included."""
    leading_blocks: list[int]
    """By worker: blocks that need no computing there."""
    holder: int
    """Who has the longest prefix."""
    fetches: list[bool]
    """By worker: whether it fetches that prefix."""
    fetch_s: list[float]
    """By worker: what of its time it only waits for that prefix."""
    compute_s: list[float]
    """By worker: the rest of it."""
    new_tokens: list[int]
    """By worker: tokens that it would compute, at least the last one."""


def prompt_s(timing: EngineTiming, job: Job, leading_blocks: int) -> float:
    """Predict a prefill alone behind so many cached blocks, in s."""
    return timing.performance.prompt_s(
        prompt_tokens=job.prompt_tokens,
        cached_tokens=leading_blocks * timing.block_size_tokens,
        step_tokens_max=timing.step_tokens_max,
    )


def make_offer(fleet: Fleet, job: Job, now_s: float, last: Offer | None = None) -> Offer:
    """Look where a job's prefix is, and what computing the rest takes.

    Args:
        fleet: where.
        job: a kept one.
        now_s: the moment.
        last: its last offer, which is returned while it is fresh.
    """
    is_whole = last is not None and len(last.prefill_s) == fleet.worker_count
    if last is not None and is_whole and now_s - last.at_s <= OFFER_AGE_S:
        return last
    timing = fleet.timing
    leading = [fleet.overlap_blocks(worker, job.block_names) for worker in range(fleet.worker_count)]
    most = max(leading)
    times_s = {blocks: prompt_s(timing, job, blocks) for blocks in set(leading)}
    prefill_s = [times_s[blocks] for blocks in leading]
    fetches = [False] * len(leading)
    for worker, blocks in enumerate(leading):
        fetched_s = timing.performance.transfer_s((most - blocks) * timing.block_bytes) + times_s[most]
        if blocks < most and fetched_s < prefill_s[worker]:
            prefill_s[worker], leading[worker], fetches[worker] = fetched_s, most, True
    size = timing.block_size_tokens
    return Offer(
        job=job,
        at_s=now_s,
        prefill_s=prefill_s,
        leading_blocks=leading,
        holder=next(w for w, blocks in enumerate(leading) if blocks == most and not fetches[w]),
        fetches=fetches,
        fetch_s=[
            s - times_s[most] if is_fetch else 0.0 for s, is_fetch in zip(prefill_s, fetches, strict=True)
        ],
        compute_s=[times_s[blocks] for blocks in leading],
        new_tokens=[max(1, job.prompt_tokens - blocks * size) for blocks in leading],
    )


class StallPrices:
    """Prices of prompts on workers that decode, at one moment."""

    def __init__(
        self,
        fleet: Fleet,
        lengths: LengthRecord,
        now_s: float,
        *,
        scarcity: float,
        spoilt_s: float,
        itl_slo_s: float,
    ) -> None:
        """Look at nobody yet.

        Args:
            fleet: the workers.
            lengths: of outputs.
            now_s: the moment.
            scarcity: of long gaps.
            spoilt_s: seconds of TTFT that keeping one more request within its own tail is worth.
            itl_slo_s: of a request's mean gap.
        """
        self._fleet = fleet
        self._now_s = now_s
        self._survival = lengths.survival()
        self._itl_slo_s = itl_slo_s
        self._spoilt_s = spoilt_s
        self._gap_s = self._spoilt_s * scarcity / (TAIL_FRAC * lengths.mean_tokens)
        """What one more long gap costs, whoever has it."""
        self._standings: dict[int, Sequence[Standing]] = {}

    def price_s(
        self,
        worker: int,
        state: WorkerState,
        coming: Iterable[Coming],
        *,
        stall_s: float,
        steps: int,
        most_s: float,
    ) -> float:
        """Price prompts that a worker computes together.

        Args:
            worker: who.
            state: of that worker.
            coming: who is to decode there soon.
            stall_s: what their prefill takes.
            steps: in how many steps.
            most_s: once it is more, how much more does not matter.

        Returns:
            Seconds of TTFT of others that it costs, the worth of requests it spoils included.
        """
        timing, now_s, survival = self._fleet.timing, self._now_s, self._survival
        price_s = self._gap_s * state.decode_count * steps
        for one in coming:
            if one.at_s < now_s + stall_s:
                price_s += now_s + stall_s - max(one.at_s, now_s)
                if one.is_shown or steps > 1:
                    price_s += self._spoilt_s * (1 - survival[min(len(survival) - 1, 100 * steps)])
        if price_s > most_s:
            return price_s
        step_s = timing.performance.decode_s(
            sequence_count=state.decode_count, context_tokens=state.decode_context_tokens
        )
        spoilt = spoilt_count(
            self._standings_of(worker),
            stall_s=stall_s,
            stalls_count=steps,
            gain_s=step_gain_s(step_s, self._itl_slo_s),
            survival=survival,
            most=(most_s - price_s) / self._spoilt_s,
        )
        return price_s + self._spoilt_s * spoilt

    def _standings_of(self, worker: int) -> Sequence[Standing]:
        if worker not in self._standings:
            self._standings[worker] = [one.standing(self._itl_slo_s) for one in self._fleet.decodes(worker)]
        return self._standings[worker]
