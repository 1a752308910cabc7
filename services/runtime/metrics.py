"""The one table of metric names, and the meters that count them.

Comes in: observations of shells. Goes out: Prometheus text. Units: seconds, `_total`, `_ratio`.
Invariant: a metric that is not in `TABLE` cannot be counted; label values come from small fixed sets
(no request ids, no prompts). The only importer of `prometheus_client`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
_SHORT_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
_RATIOS = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0)
_TOKENS = (16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0)


class Kind(StrEnum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One row of the table."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = _SECONDS


TABLE: tuple[Metric, ...] = (
    Metric(
        name="baton_requests_total",
        kind=Kind.COUNTER,
        labels=("api", "outcome"),
        text="Client calls ended; outcome is ok or the code of the error.",
    ),
    Metric(
        name="baton_requests_accepted_total",
        kind=Kind.COUNTER,
        text="Requests let in, counted when they arrive; their lengths and times are counted when they end.",
    ),
    Metric(name="baton_requests_active", kind=Kind.GAUGE, text="Requests admitted and not ended."),
    Metric(
        name="baton_rejections_total",
        kind=Kind.COUNTER,
        labels=("code",),
        text="Requests refused before any work began, by the code of the error.",
    ),
    Metric(
        name="baton_requests_waiting",
        kind=Kind.GAUGE,
        text="New requests that wait in the gateway until a decode worker has room.",
    ),
    Metric(
        name="baton_admission_margin_ratio",
        kind=Kind.GAUGE,
        labels=("model", "target"),
        text="Share of a target (ttft or tpot) that predictions may use up under overload, learned from "
        "requests that missed it; 1 where predictions come true.",
    ),
    Metric(
        name="baton_placements_total",
        kind=Kind.COUNTER,
        labels=("path",),
        text="Routing decisions by where the prompt is prefilled.",
    ),
    Metric(
        name="baton_fallbacks_total",
        kind=Kind.COUNTER,
        labels=("cause",),
        text="Times a request left its way for another.",
    ),
    Metric(name="baton_ttft_seconds", kind=Kind.HISTOGRAM, text="Accept to first token sent."),
    Metric(
        name="baton_ttft_alone_seconds",
        kind=Kind.HISTOGRAM,
        text="What prefill of the same prompt takes on the same worker when it has nothing else to do: above "
        "a target, no number of workers meets it.",
    ),
    Metric(
        name="baton_ttft_over_predicted_ratio",
        kind=Kind.HISTOGRAM,
        labels=("path",),
        buckets=_RATIOS,
        text="Decision to first token over the predicted time; 1 is as predicted. Requests that left a way "
        "for another do not count.",
    ),
    Metric(
        name="baton_tpot_seconds",
        kind=Kind.HISTOGRAM,
        buckets=_SHORT_SECONDS,
        text="Mean time per output token after the first.",
    ),
    Metric(
        name="baton_tpot_alone_seconds",
        kind=Kind.HISTOGRAM,
        buckets=_SHORT_SECONDS,
        text="What a step takes on the same worker with this sequence only: above a target, no number of "
        "workers meets it.",
    ),
    Metric(name="baton_e2e_seconds", kind=Kind.HISTOGRAM, text="Accept to terminal event."),
    Metric(
        name="baton_prompt_length_tokens",
        kind=Kind.HISTOGRAM,
        buckets=_TOKENS,
        text="Prompt length (ISL).",
    ),
    Metric(name="baton_prompt_tokens_total", kind=Kind.COUNTER, text="Prompt tokens served."),
    Metric(name="baton_cached_tokens_total", kind=Kind.COUNTER, text="Prompt tokens whose KV was reused."),
    Metric(name="baton_output_tokens_total", kind=Kind.COUNTER, text="Tokens sent to clients."),
    Metric(name="baton_router_index_blocks", kind=Kind.GAUGE, text="Distinct KV blocks known to the router."),
    Metric(
        name="baton_router_index_gaps_total",
        kind=Kind.COUNTER,
        text="KV event gaps found and mended by a snapshot.",
    ),
    Metric(name="baton_fleet_workers", kind=Kind.GAUGE, labels=("phase",), text="Ready workers by phase."),
    Metric(name="baton_queue_tasks", kind=Kind.GAUGE, text="Tasks in the prefill queue, claimed or waiting."),
    Metric(
        name="baton_queue_wait_seconds",
        kind=Kind.HISTOGRAM,
        buckets=(*_SHORT_SECONDS, 2.0, 5.0, 10.0, 30.0),
        text="Enqueue to claim.",
    ),
    Metric(
        name="baton_queue_claims_total",
        kind=Kind.COUNTER,
        labels=("outcome",),
        text="Claims by outcome: won, lost, expired.",
    ),
    Metric(name="baton_prefill_seconds", kind=Kind.HISTOGRAM, text="Claim to first token, remote prefill."),
    Metric(
        name="baton_handoffs_total",
        kind=Kind.COUNTER,
        labels=("outcome",),
        text="Handoffs by outcome: taken, finished, refused, unanswered.",
    ),
    Metric(name="baton_handoff_bytes_total", kind=Kind.COUNTER, text="KV bytes offered in taken handoffs."),
    Metric(
        name="baton_kv_pulled_bytes_total",
        kind=Kind.COUNTER,
        text="KV bytes that this engine pulled; over baton_kv_pulling_seconds_total, a transfer's speed.",
    ),
    Metric(
        name="baton_kv_pulling_seconds_total",
        kind=Kind.COUNTER,
        text="Time that those transfers took; what ran at the same time adds up.",
    ),
    Metric(
        name="baton_kv_checks_total",
        kind=Kind.COUNTER,
        labels=("outcome",),
        text="Pulls whose blocks were compared with their fingerprints: matched, mismatched.",
    ),
    Metric(
        name="baton_engine_step_frames_total",
        kind=Kind.COUNTER,
        text="Step frames sent to gateways.",
    ),
    Metric(name="baton_engine_tokens_total", kind=Kind.COUNTER, text="Tokens written by decode."),
    Metric(name="baton_engine_running", kind=Kind.GAUGE, text="Sequences that decode."),
    Metric(name="baton_engine_waiting", kind=Kind.GAUGE, text="Sequences accepted, not yet decoding."),
    Metric(name="baton_engine_kv_used_ratio", kind=Kind.GAUGE, text="Share of KV blocks in use or leased."),
    Metric(name="baton_engine_leased_blocks", kind=Kind.GAUGE, text="KV blocks kept for a handoff."),
    Metric(
        name="baton_engine_pace_ratio",
        kind=Kind.GAUGE,
        labels=("phase",),
        text="Measured step times over those of the performance model; 1 is as predicted.",
    ),
    Metric(
        name="baton_planner_decisions_total",
        kind=Kind.COUNTER,
        labels=("outcome",),
        text="Looks of the planner by what came of them: changed, unchanged, left (held, or another planner "
        "leads), blind (nothing could be seen), failed (the scale target refused).",
    ),
    Metric(
        name="baton_planner_workers_wanted",
        kind=Kind.GAUGE,
        labels=("phase",),
        text="Workers that the planner last ordered, over all kinds.",
    ),
    Metric(
        name="baton_planner_flips_total", kind=Kind.COUNTER, text="Workers whose role the planner changed."
    ),
    Metric(
        name="baton_planner_scalings_total",
        kind=Kind.COUNTER,
        labels=("direction",),
        text="Workers that the planner ordered (up) and gave back (down).",
    ),
    Metric(
        name="baton_planner_allowed_late_ratio",
        kind=Kind.GAUGE,
        text="Share of requests that may be late in a plan made now, as the performance model counts them: "
        "the error budget, times how many the model says for each that comes.",
    ),
    Metric(
        name="baton_planner_observation_age_seconds",
        kind=Kind.GAUGE,
        text="Age of what the last decision rests on.",
    ),
    Metric(name="baton_bus_connected", kind=Kind.GAUGE, text="1 while NATS answers."),
    Metric(
        name="baton_certificate_expiry_timestamp_seconds",
        kind=Kind.GAUGE,
        labels=("listener",),
        text="End of the certificate that a listener (edge, link, router) shows, seconds since 1970.",
    ),
    Metric(
        name="baton_certificate_renewals_total",
        kind=Kind.COUNTER,
        labels=("listener", "outcome"),
        text="Changed certificate files by what came of them: taken, or refused, and the last one is kept.",
    ),
    Metric(
        name="baton_dropped_total",
        kind=Kind.COUNTER,
        labels=("what",),
        text="Messages dropped at a bound, by the bound's name.",
    ),
)


class Meters:
    """Counters of one process; each process makes one and hands it to its rooms."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._looks: list[Callable[[], object]] = []
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for row in TABLE:
            match row.kind:
                case Kind.COUNTER:
                    self._counters[row.name] = Counter(
                        row.name, row.text, row.labels, registry=self._registry
                    )
                case Kind.GAUGE:
                    self._gauges[row.name] = Gauge(row.name, row.text, row.labels, registry=self._registry)
                case Kind.HISTOGRAM:
                    self._histograms[row.name] = Histogram(
                        row.name, row.text, row.labels, registry=self._registry, buckets=row.buckets
                    )

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter of the table."""
        counter = self._counters[name]
        (counter.labels(**labels) if labels else counter).inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge of the table."""
        gauge = self._gauges[name]
        (gauge.labels(**labels) if labels else gauge).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add an observation to a histogram of the table."""
        histogram = self._histograms[name]
        (histogram.labels(**labels) if labels else histogram).observe(value)

    def look_before_rendering(self, look: Callable[[], object]) -> None:
        """Have something looked at whenever somebody reads the meters, in whatever thread that is."""
        self._looks.append(look)

    def render(self) -> bytes:
        """Prometheus text of all meters."""
        for look in self._looks:
            look()
        return generate_latest(self._registry)
