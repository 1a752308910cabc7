"""What a load costs: times of prefill and decode per step of a load, by the one performance model.

Comes in: a load, an engine, targets. Goes out: arrays of shape [steps]. The fluid cluster takes its speeds
from here and the clairvoyant bound its work, so both speak of the same GPU.
Not here: queues (`fluid`), who meets the targets (`grading`), how many GPUs that makes (`bound`).
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from planner.load import Engine
from planner.proof.load import SPREAD_WEIGHTS, Floats, Load, averaged
from services.domain.errors import ConfigurationInvalid
from services.domain.performance import preset
from services.domain.slo import Slo

Bools = NDArray[np.bool_]


RATE_S = 10.0
"""Arrivals and lengths that differ over less than so long differ by chance."""
DEFAULT_ENGINE = Engine(
    performance=preset("h200-llama-3.1-8b-fp8"), kv_tokens=945_029, sequences_max=256, step_tokens_max=8_192
)
"""Llama-3.1-8B in FP8 on one H200, with vLLM's default limits of a step."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Times of a load; every array has shape [steps] unless it says otherwise."""

    load: Load
    engine: Engine
    slo: Slo

    def __post_init__(self) -> None:
        """Refuse targets that no fleet can hold.

        Raises:
            ConfigurationInvalid: a decode step alone takes longer than the TPOT target, or a prefill step
                of nothing longer than the TTFT target.
        """
        model = self.engine.performance
        if self.slo.tpot_s <= model.decode_step_s or self.slo.ttft_s <= model.prefill_step_s:
            raise ConfigurationInvalid(
                key="slo",
                message=f"slo: an empty step takes {model.prefill_step_s:g} s of prefill and "
                f"{model.decode_step_s:g} s of decode; no fleet meets {self.slo}",
            )

    @cached_property
    def steady(self) -> "Work":
        """The work without what differs over less than `RATE_S`: within it, theory says what chance does."""
        return replace(self, load=averaged(self.load, RATE_S))

    @cached_property
    def slo_step_tokens(self) -> float:
        """Most new tokens of one prefill step that itself takes no longer than the TTFT target."""
        model, limit = self.engine.performance, float(self.engine.step_tokens_max)
        linear = model.prefill_token_s
        square = model.prefill_attention_s / 2 + model.prefill_square_s
        room = self.slo.ttft_s - model.prefill_step_s
        if square <= 0:
            return max(1.0, min(limit, room / linear))
        return max(1.0, min(limit, (math.sqrt(linear**2 + 4 * square * room) - linear) / (2 * square)))

    @cached_property
    def prompt_s(self) -> Floats:
        """What a mean prompt adds to a prefill step by itself."""
        model, load = self.engine.performance, self.load
        uncached = load.uncached_tokens
        square = uncached**2 * load.spread_square
        pairs = uncached * np.maximum(load.prompt_tokens - uncached, 0.0) + square / 2
        full = np.minimum(uncached, self.slo_step_tokens)
        squares = model.prefill_square_s * uncached * full
        return np.asarray(model.prefill_token_s * uncached + model.prefill_attention_s * pairs + squares)

    @cached_property
    def step_share(self) -> Floats:
        """Steps that a mean prompt takes up when all steps are full: below 1 where several fit."""
        return np.asarray(self.load.uncached_tokens / self.slo_step_tokens)

    @cached_property
    def packed_s(self) -> Floats:
        """Prefill of a mean prompt in full steps: the best pace within the TTFT target."""
        return np.asarray(self.engine.performance.prefill_step_s * self.step_share + self.prompt_s)

    @cached_property
    def own_s(self) -> Floats:
        """Prefill of prompts alone, of each point of the load's spread: shape [steps, points]."""
        model, load = self.engine.performance, self.load
        uncached = load.uncached_tokens[:, None] * load.spread
        cached = np.maximum(load.prompt_tokens - load.uncached_tokens, 0.0)[:, None]
        steps = np.ceil(uncached / self.engine.step_tokens_max)
        full = np.minimum(uncached, self.engine.step_tokens_max)
        return np.asarray(
            model.prefill_step_s * steps
            + model.prefill_square_s * uncached * full
            + model.prefill_token_s * uncached
            + model.prefill_attention_s * uncached * (cached + uncached / 2)
        )

    @cached_property
    def is_possible(self) -> Bools:
        """Which parts of the requests an idle worker would prefill in time: shape [steps, points]."""
        return np.asarray(self.own_s + self._shown_later_s <= self.slo.ttft_s)

    @cached_property
    def possible_frac(self) -> Floats:
        """Share of requests that are possible."""
        return np.asarray(self.is_possible @ SPREAD_WEIGHTS)

    @cached_property
    def possible_work_frac(self) -> Floats:
        """Share of prefill work that possible requests make."""
        own_s = self.own_s * SPREAD_WEIGHTS
        return np.asarray((own_s * self.is_possible).sum(axis=1) / own_s.sum(axis=1))

    @cached_property
    def own_square(self) -> Floats:
        """Mean square of a prompt's own prefill over the square of its mean."""
        return np.asarray((self.own_s**2 @ SPREAD_WEIGHTS) / (self.own_s @ SPREAD_WEIGHTS) ** 2)

    @property
    def _shown_later_s(self) -> float:
        """For how long an idle cluster holds a first token back, so that the second follows in time."""
        model = self.engine.performance
        return max(0.0, model.handoff_s + model.decode_step_s - self.slo.tpot_s)

    def longest_frac(self, work_frac: float, place: int) -> float:
        """Tell which share of the possible requests of a step makes so much of their work, the longest first.

        Args:
            work_frac: share of the work.
            place: of the step.
        """
        weights = (SPREAD_WEIGHTS * self.is_possible[place])[::-1]
        costs = np.cumsum(weights * self.own_s[place, ::-1])
        if costs[-1] <= 0:
            return 0.0
        return float(np.interp(work_frac * costs[-1], costs, np.cumsum(weights))) / float(weights.sum())

    @cached_property
    def queued_s(self) -> Floats:
        """Prefill of a mean prompt in steps that take from a queue whatever whole prompts fit.

        What does not fit leaves room unused: on the average half of a prompt met at random.
        """
        limit, load = float(self.engine.step_tokens_max), self.load
        unused = load.uncached_tokens * load.spread_square / 2
        uncached = load.uncached_tokens[:, None] * load.spread
        among = np.minimum(1.0, uncached / np.maximum(limit - unused, 1.0)[:, None])
        steps = np.where(uncached > limit, np.ceil(uncached / limit), among) @ SPREAD_WEIGHTS
        return np.asarray(self.engine.performance.prefill_step_s * steps + self.prompt_s)

    @cached_property
    def sequence_s(self) -> Floats:
        """What one sequence of mean context adds to a decode step; a square term at half the memory."""
        model = self.engine.performance
        context = self.load.context_tokens
        bend = model.decode_context_square_s * self.engine.kv_tokens / 2
        return np.asarray(model.decode_sequence_s + (model.decode_context_token_s + bend) * context)

    @cached_property
    def seats(self) -> Floats:
        """Sequences that one worker can hold at once: memory and batch."""
        held = self.engine.kv_tokens / self.load.context_tokens
        return np.asarray(np.minimum(float(self.engine.sequences_max), held))

    @cached_property
    def slo_batch(self) -> Floats:
        """Sequences of the largest step within the TPOT target that fits the memory."""
        room = self.slo.tpot_s - self.engine.performance.decode_step_s
        return np.asarray(np.minimum(self.seats, room / self.sequence_s))

    @cached_property
    def later_tokens(self) -> Floats:
        """Tokens of an output after the first, which prefill writes."""
        return np.asarray(np.maximum(self.load.output_tokens - 1.0, 1e-9))

    @cached_property
    def packed_decode_s(self) -> Floats:
        """Decode of a mean output in steps of the best batch: its share of a worker's time."""
        batch = self.slo_batch
        step_s = self.engine.performance.decode_step_s + self.sequence_s * batch
        return np.asarray(self.later_tokens * step_s / batch)

    @cached_property
    def prefill_gpus(self) -> Floats:
        """GPUs that prefill at the best pace keeps busy."""
        return np.asarray(self.load.arrivals / self.load.step_s * self.packed_s)

    @cached_property
    def decode_gpus(self) -> Floats:
        """GPUs that decode at the best pace keeps busy."""
        return np.asarray(self.load.arrivals / self.load.step_s * self.packed_decode_s)
