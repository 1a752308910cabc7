"""Settings of the planner: targets, kinds of workers, limits, how it decides.

Comes in: YAML through `services.runtime.settings`. Goes out: one frozen struct.
Invariant: an impossible value refuses the start and names the key; nothing is clamped. No setting is a
head-room: what is kept in reserve follows from queueing, from the forecast's interval and from start-up
times. Not here: where observations come from and who carries decisions out (`process_settings`).
"""

from typing import Annotated

import msgspec

from services.domain.errors import ConfigurationInvalid
from services.domain.performance import PerformanceModel, preset
from services.domain.slo import Slo

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Natural = Annotated[float, msgspec.Meta(ge=0)]
_Count = Annotated[int, msgspec.Meta(ge=1)]
_CountOrNone = Annotated[int, msgspec.Meta(ge=0)]


class TargetSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What requests are promised, and how many of them."""

    ttft_s: _Positive = 0.5
    """Accept at the gateway to first token. Interactive target of MLPerf Inference 5.1 (Llama 2 70B: 450 ms),
    and the router's own default."""

    tpot_s: _Positive = 0.03
    """Per output token after the first, mean over a request; the router's own default."""

    attainment_frac: Annotated[float, msgspec.Meta(gt=0.5, lt=1)] = 0.99
    """Share of requests that meet both targets. The rest is the error budget: it is spent where a worker
    more would serve the fewest."""

    @property
    def slo(self) -> Slo:
        """The two targets as one value."""
        return Slo(ttft_s=self.ttft_s, tpot_s=self.tpot_s)


class KindSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of worker: what it can do, how long it takes to start and what it costs."""

    name: Annotated[str, msgspec.Meta(min_length=1)] = "default"
    """Name, as in observations and scale targets."""

    performance: str | PerformanceModel = "h200-llama-3.1-8b-fp8"
    """Name of a preset, or a model of one's own, as `baton profile` writes it."""

    kv_tokens: _Count = 945_029
    """Tokens of KV that one worker holds. Default: measured with the preset."""

    sequences_max: _Count = 256
    """Sequences in one step; vLLM's default on a large GPU."""

    step_tokens_max: _Count = 8_192
    """Tokens computed in one step; vLLM's default on a large GPU."""

    start_s: _Natural = 60.0
    """From the order of a replica until it takes work. 82 s were measured with warm caches, 294 s cold; what
    is planned ahead and how long a spare worker is kept follow from it, so measure yours."""

    price_per_hour: _Positive = 1.0
    """Price of one worker, in any currency; only ratios between kinds and the budget matter."""

    power_w: _Natural = 0.0
    """Power of one worker, for the power limit."""

    workers_max: _CountOrNone | None = None
    """Workers of this kind that can be had, both roles together; null: as many as the roles allow."""

    def __post_init__(self) -> None:
        """Refuse an unknown preset.

        Raises:
            ConfigurationInvalid: names the key.
        """
        if isinstance(self.performance, str):
            preset(self.performance)

    def model(self) -> PerformanceModel:
        """The performance model itself."""
        return preset(self.performance) if isinstance(self.performance, str) else self.performance


class RoleLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many workers one role may have, over all kinds."""

    workers_min: Annotated[int, msgspec.Meta(ge=0)] = 1
    """Never fewer. With 0 for decode both roles go to none while nothing is asked for. With 0 for prefill
    alone decode workers read the prompts themselves when there are few."""

    workers_max: _Count = 256
    """Never more. A bound against a broken counter, not a plan."""


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What no decision goes beyond."""

    prefill: RoleLimits = RoleLimits()
    """Of the role that reads prompts."""

    decode: RoleLimits = RoleLimits()
    """Of the role that writes tokens."""

    price_per_hour_max: _Positive | None = None
    """Budget: price of all workers together; null: none."""

    power_w_max: _Positive | None = None
    """Power of all workers together; null: none."""

    starts_max: _Count = 64
    """Replicas asked for in one decision. A step limit: a wrong reading cannot order a data centre."""

    stops_max: _Count = 64
    """Replicas given back in one decision."""

    cooldown_s: _Natural = 0.0
    """After any replica was asked for or given back, no other is given back for so long. 0, because a worker
    is given back only after it was not needed for as long as a new one takes to start."""

    flips: bool = True
    """Whether workers may change their role. Needs engines that serve both."""


class PlannerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the planner decides."""

    targets: TargetSettings = TargetSettings()
    kinds: tuple[KindSettings, ...] = (KindSettings(),)
    """Kinds of workers to choose from; the cheapest that carry the work are taken."""

    limits: LimitSettings = LimitSettings()

    spills: bool = True
    """Whether decode workers also take prompts in the time that their own steps leave, as Baton's router lets
    them. A plan then needs fewer workers for the same targets."""

    look_s: _Positive = 10.0
    """Time between two looks. Short against start-up, long enough for some hundred requests."""

    stale_after_s: _Positive = 45.0
    """Age at which an observation is no ground for a decision: pools then stay as they are. Three looks, or
    three scrapes of Prometheus at its usual 15 s."""

    budget_memory_s: _Positive = 300.0
    """How fast the measured attainment corrects the plan: after so long without a late request the plan may
    be late e times as often at any one moment, and an excess of late requests takes it back as fast. A few
    starts long, so that what one correction does is seen before the next."""

    budget_factor_max: Annotated[float, msgspec.Meta(ge=1)] = 10.0
    """Bound of that correction: at any moment the share of late requests planned for is at most so many times
    the budget, and at least the budget over it. 1 turns the correction off. More than 3.5 times as many take
    hours to save. How many of them the performance model says is corrected apart, by four times at most."""

    def __post_init__(self) -> None:
        """Refuse values that contradict each other.

        Raises:
            ConfigurationInvalid: names the key.
        """
        names = [kind.name for kind in self.kinds]
        if not names:
            raise _invalid("kinds", "name at least one kind of worker")
        if len(set(names)) != len(names):
            raise _invalid("kinds", "each name may be given once")
        for role, bounds in (("prefill", self.limits.prefill), ("decode", self.limits.decode)):
            if bounds.workers_max < bounds.workers_min:
                raise _invalid(f"limits.{role}.workers_max", "must not be smaller than workers_min")
        if self.limits.decode.workers_min == 0 and self.limits.prefill.workers_min > 0:
            raise _invalid(
                "limits.decode.workers_min", "may be 0 only if prefill.workers_min is: one serves nobody"
            )
        if self.limits.prefill.workers_min == 0 and self.limits.decode.workers_min > 0 and not self.spills:
            raise _invalid(
                "limits.prefill.workers_min", "may be 0 only if decode.workers_min is, or with spills"
            )
        if self.stale_after_s < self.look_s:
            raise _invalid("stale_after_s", "must not be smaller than look_s: nothing would ever be decided")
        self._check_minimum()

    def _check_minimum(self) -> None:
        """Refuse a minimum that the kinds or the budget cannot give."""
        least = self.limits.prefill.workers_min + self.limits.decode.workers_min
        if all(kind.workers_max is not None for kind in self.kinds):
            most = sum(kind.workers_max or 0 for kind in self.kinds)
            if most < max(least, 2):
                raise _invalid("kinds.workers_max", "fewer workers than the roles need at least")
        for key, limit, costs in (
            ("limits.price_per_hour_max", self.limits.price_per_hour_max, "price_per_hour"),
            ("limits.power_w_max", self.limits.power_w_max, "power_w"),
        ):
            cheapest = min(float(getattr(kind, costs)) for kind in self.kinds)
            if limit is not None and limit < cheapest * max(least, 2):
                raise _invalid(key, "does not pay for the fewest workers that both roles need")

    @property
    def may_sleep(self) -> bool:
        """Whether both roles may go to none."""
        return self.limits.decode.workers_min == 0

    def kind_named(self, name: str) -> KindSettings | None:
        """Look up a kind; None when there is none of that name."""
        return next((kind for kind in self.kinds if kind.name == name), None)


def _invalid(key: str, what: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(key=f"planner.{key}", message=f"planner.{key}: {what}")
