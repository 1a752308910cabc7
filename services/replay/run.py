"""One replay from settings to report.

Comes in: settings, a trace. Goes out: measures with all settings that made them.
Invariant: the report of the same settings and trace is the same, but for how long it took.
Not here: files and words for people (`services.cli.replay`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from services.domain.errors import ConfigurationInvalid
from services.replay.cluster import Cluster
from services.replay.measures import Measures, measure
from services.replay.policies import policy_maker
from services.replay.policies.options import PolicyOptions
from services.replay.policy import Fleet, Mechanisms, Policy
from services.replay.presets import DEFAULT_TIMING, EngineTiming, timing_named
from services.replay.retiming import first, speed_up, spread
from services.replay.traces import Trace
from services.replay.worker import RUN_STEPS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySettings:
    """What is replayed how."""

    policy: str
    """Name in `services.replay.policies`."""
    workers: int = 8
    speedup: float = 1.0
    """Arrivals come so many times as fast, > 0."""
    timing: str = DEFAULT_TIMING
    """Name in `services.replay.presets`."""
    prefill_workers: int | None = None
    """Fixed split: so many workers only prefill, the others only decode; None: every worker does both."""
    mechanisms: Mechanisms | None = None
    """How handoffs work; None: as the policy says."""
    ttft_slo_s: float = 2.0
    itl_slo_s: float = 0.025
    spread_s: float = 0.0
    """Arrivals are spread evenly over ticks of so long, before the speed-up; 0: left as they are."""
    seed: int | None = None
    """Of a made trace; None: it was recorded."""
    first: int | None = None
    """Only so many requests; None: all."""
    status_delay_s: float = 0.0
    """The policy sees counters as old as this at most; 0: the present."""
    event_delay_s: float = 0.0
    """Cache events reach the policy so late."""
    run_steps_max: int = RUN_STEPS_MAX
    """Steps computed ahead at most; changes nothing but the time it takes."""

    def __post_init__(self) -> None:
        """Refuse what cannot be replayed.

        Raises:
            ConfigurationInvalid: names the key.
        """
        for key in ("workers", "run_steps_max"):
            if getattr(self, key) < 1:
                raise ConfigurationInvalid(key=key, message=f"{key} must be at least 1")
        for key in ("speedup", "ttft_slo_s", "itl_slo_s"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ConfigurationInvalid(key=key, message=f"{key} must be greater than 0")
        for key in ("spread_s", "status_delay_s", "event_delay_s"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ConfigurationInvalid(key=key, message=f"{key} must not be negative")
        if self.first is not None and self.first < 1:
            raise ConfigurationInvalid(key="first", message="first must be at least 1")
        policy_maker(self.policy)
        timing_named(self.timing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Measures):
    """One replay: its measures, and what made them."""

    trace: str
    """Name of the trace."""
    settings: ReplaySettings
    engine: EngineTiming
    mechanisms: Mechanisms
    """As used."""
    took_s: float
    """Real time of the replay, without reading the trace."""


def prepared(trace: Trace, settings: ReplaySettings) -> Trace:
    """Make the trace that is replayed: shortened, spread, sped up."""
    if settings.first is not None:
        trace = first(trace, settings.first)
    if settings.spread_s:
        trace = spread(trace, settings.spread_s)
    return speed_up(trace, settings.speedup)


def replay(
    trace: Trace, settings: ReplaySettings, progress: Callable[[Cluster], None] | None = None
) -> tuple[Report, Cluster]:
    """Replay a trace.

    Args:
        trace: as recorded.
        settings: what is changed of it, and who serves it.
        progress: called now and then.

    Returns:
        The report, and the cluster with its records.

    Raises:
        ConfigurationInvalid: the policy cannot be made for so many workers.
        InternalFault: the policy leaves requests waiting for ever.
    """
    began_s = time.perf_counter()
    engine = timing_named(settings.timing)
    options = PolicyOptions(
        prefill_workers=settings.prefill_workers,
        mechanisms=settings.mechanisms,
        ttft_slo_s=settings.ttft_slo_s,
        itl_slo_s=settings.itl_slo_s,
    )
    made: list[Policy] = []

    def make(fleet: Fleet) -> Policy:
        made.append(policy_maker(settings.policy)(fleet, options))
        return made[0]

    cluster = Cluster(
        prepared(trace, settings),
        engine,
        worker_count=settings.workers,
        policy=make,
        itl_slo_s=settings.itl_slo_s,
        status_delay_s=settings.status_delay_s,
        event_delay_s=settings.event_delay_s,
        run_steps_max=settings.run_steps_max,
    )
    cluster.run(progress)
    measures = measure(cluster, ttft_slo_s=settings.ttft_slo_s, itl_slo_s=settings.itl_slo_s)
    report = Report(
        **{name: getattr(measures, name) for name in Measures.__dataclass_fields__},
        trace=trace.name,
        settings=settings,
        engine=engine,
        mechanisms=made[0].mechanisms,
        took_s=time.perf_counter() - began_s,
    )
    return report, cluster
