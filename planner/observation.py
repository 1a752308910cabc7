"""What the planner knows at one moment: demand, what waits, the pools, and what was measured of the targets.

Comes in: counters of gateways and workers, read by a shell or made by a simulation. Goes out: a frozen value.
Invariant: it carries its own age; whoever decides by it says how old it may be.
Not here: where it comes from (NATS, Prometheus, a simulation), what follows from it.
"""

from dataclasses import dataclass

from services.domain.worker import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Requests over the last window.

    Attributes:
        window_s: length of the window.
        requests_per_s: arrivals.
        prompt_tokens: mean of a prompt.
        uncached_tokens: mean of what had to be computed of a prompt.
        uncached_square_tokens: mean of the square of that, in tokens squared.
        output_tokens: mean of an output.
        dispersion: index of dispersion of the arrivals: 1 for independent ones, b for bursts of b.
        output_square_tokens: mean of the square of an output, in tokens squared; 0 where it is not known.
    """

    window_s: float
    requests_per_s: float
    prompt_tokens: float
    uncached_tokens: float
    uncached_square_tokens: float
    output_tokens: float
    dispersion: float = 1.0
    output_square_tokens: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Work that is there and not done."""

    waiting_count: int = 0
    """Prompts that wait for a prefill worker."""
    waiting_tokens: int = 0
    """Of these, what is to be computed."""
    running_count: int = 0
    """Sequences that decode."""
    running_context_tokens: int = 0
    """KV tokens of these together."""


PoolKey = tuple[Phase, str]
"""Role and kind of a pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """Workers of one role and one kind.

    Attributes:
        phase: the role.
        kind: name of the kind of worker, as in the planner's settings.
        ready_count: workers that take work.
        starting_s: of each worker on its way, how long ago it was asked for.
        draining_count: workers that finish what they have and go.
        is_held: a person keeps this pool as it is.
        start_s: how long workers of it took to start lately, as far as the target measures that.
    """

    phase: Phase
    kind: str
    ready_count: int
    starting_s: tuple[float, ...] = ()
    draining_count: int = 0
    is_held: bool = False
    start_s: float | None = None

    @property
    def ordered_count(self) -> int:
        """Workers that are to be there: ready ones and those on their way."""
        return self.ready_count + len(self.starting_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attainment:
    """What requests of the last window got.

    Attributes:
        request_count: that ended.
        ttft_frac: share within the TTFT target, of those that an idle worker would have served so.
        tpot_frac: share within the TPOT target, likewise.
        prefill_pace: measured prefill time over the performance model's; 1 is as promised.
        decode_pace: measured step time over the performance model's.
        ttft_possible_frac: share that an idle worker would have served within the TTFT target.
        tpot_possible_frac: share that an idle worker would have served within the TPOT target.
    """

    request_count: int = 0
    ttft_frac: float = 1.0
    tpot_frac: float = 1.0
    prefill_pace: float = 1.0
    decode_pace: float = 1.0
    ttft_possible_frac: float = 1.0
    tpot_possible_frac: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything at one moment.

    Attributes:
        at_s: by the planner's clock.
        age_s: how old the oldest part is that a decision rests on.
        demand: None while nothing was heard of any request.
        backlog: work not done.
        pools: by role and kind.
        attainment: of the targets.
    """

    at_s: float
    age_s: float
    demand: Demand | None
    backlog: Backlog
    pools: tuple[PoolState, ...]
    attainment: Attainment = Attainment()
