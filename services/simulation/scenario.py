"""What happens in one simulated run: the cluster, its clients and its faults, as one value.

Comes in: drawn from a seed (`services.simulation.draw`) or read from a file. Goes out: the same.
Invariant: a scenario says everything; equal scenarios give equal runs, byte for byte, on any machine.
Not here: making it happen (`services.simulation.world`).
"""

from pathlib import Path
from typing import Literal

import msgspec

from services.domain.errors import ConfigurationInvalid
from services.engine.simulated.settings import SimulatedSettings

Passing = Literal["claimed", "offer", "start", "accepted", "frame", "answer"]
"""Messages on a request's way at which something may happen."""

Blow = Literal["kill", "crash", "hang", "pause", "cut link", "break link"]
"""What may happen to a worker then."""

EVERYONE = "*"
"""In place of a process's name: all of them."""


class _Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a scenario."""


class Arrival(_Value, frozen=True):
    """One client and its request."""

    name: str
    at_s: float
    gateway: int
    """Whom it asks first; another when that one is down."""
    first_token_id: int
    """Prompts with the same one share their prefix."""
    prompt_tokens: int
    output_tokens_max: int
    seed: int | None = None
    """Sampled with this seed; greedy without."""
    logprobs: bool = False
    json_schema: bool = False
    priority: int = 0
    path: str = "auto"
    deadline_s: float = 60.0
    leaves_after_s: float | None = None
    leaves_after_tokens: int | None = None


class _Fault(_Value, frozen=True, tag_field="fault"):
    at_s: float


class KillWorker(_Fault, frozen=True, tag="kill worker"):
    """The process dies by kill -9 and is started again."""

    worker: str
    back_after_s: float


class CrashEngine(_Fault, frozen=True, tag="crash engine"):
    """The engine dies; the worker finds out, ends, and is started again."""

    worker: str


class HangEngine(_Fault, frozen=True, tag="hang engine"):
    """A step does not end; if that lasts, the worker finds out, ends, and is started again."""

    worker: str
    for_s: float


class PauseWorker(_Fault, frozen=True, tag="pause worker"):
    """As by SIGSTOP and SIGCONT: nothing is computed, nothing comes or goes."""

    worker: str
    for_s: float


class SlowWorker(_Fault, frozen=True, tag="slow worker"):
    """Every step takes `factor` times its time."""

    worker: str
    factor: float
    for_s: float


class DrainWorker(_Fault, frozen=True, tag="drain worker"):
    """SIGTERM; a new process takes its place later."""

    worker: str
    patience_s: float
    back_after_s: float


class TurnWorker(_Fault, frozen=True, tag="turn worker"):
    """It is ordered to another role, and back later; a new process in between has its first role anyway."""

    worker: str
    phases: tuple[str, ...]
    for_s: float


class Strike(_Fault, frozen=True, tag="strike"):
    """Something happens to a worker at a moment of a request's way: when a message passes."""

    message: Passing
    """Kind of message, as the trace names it."""
    nth: int
    """Which of them since the strike's time, from 1."""
    delay_s: float
    """From the message to the blow."""
    blow: Blow
    for_s: float


class CorruptPulls(_Fault, frozen=True, tag="corrupt pulls"):
    """The last block of each of the next pulls of a worker arrives changed."""

    worker: str
    count: int


class DropCache(_Fault, frozen=True, tag="drop cache"):
    """The engine forgets its prefix cache."""

    worker: str


class KillGateway(_Fault, frozen=True, tag="kill gateway"):
    """The process dies by kill -9, its clients' connections with it, and is started again."""

    gateway: int
    back_after_s: float


class CutBus(_Fault, frozen=True, tag="cut bus"):
    """A process, or everyone, cannot reach NATS."""

    process: str
    for_s: float


class LoseBusState(_Fault, frozen=True, tag="lose bus state"):
    """NATS restarts on an empty disk: queue and fleet are forgotten."""


class LoseReplies(_Fault, frozen=True, tag="lose replies"):
    """Requests of a process to NATS take effect, and it never hears of it."""

    process: str
    count: int


class CutLink(_Fault, frozen=True, tag="cut link"):
    """Nothing passes between a gateway and a worker, which believe in each other for a while."""

    gateway: int
    worker: str
    for_s: float


class BreakLink(_Fault, frozen=True, tag="break link"):
    """The connection between a gateway and a worker resets."""

    gateway: int
    worker: str


class SlowNetwork(_Fault, frozen=True, tag="slow network"):
    """Messages between gateways and workers take up to `delay_s`, drawn for each."""

    delay_s: float
    for_s: float


class MangleKvEvents(_Fault, frozen=True, tag="mangle kv events"):
    """KV events are lost, repeated and overtake each other."""

    lost_frac: float
    repeated_frac: float
    delay_s: float
    for_s: float


class SkewClock(_Fault, frozen=True, tag="skew clock"):
    """A process's clock runs at another rate from now on, after a jump forward."""

    process: str
    rate: float
    jump_s: float


Fault = (
    KillWorker
    | CrashEngine
    | HangEngine
    | PauseWorker
    | SlowWorker
    | DrainWorker
    | TurnWorker
    | Strike
    | CorruptPulls
    | DropCache
    | KillGateway
    | CutBus
    | LoseBusState
    | LoseReplies
    | CutLink
    | BreakLink
    | SlowNetwork
    | MangleKvEvents
    | SkewClock
)


class Scenario(_Value, frozen=True):
    """One run.

    First the safety phase: arrivals and faults come as they are timed, until `safety_s`. Then all faults
    end, and in the liveness phase everything that is pending must finish and `calm_arrivals` must be
    served as if nothing had ever happened.
    """

    seed: int
    """Also draws what is decided message by message: delays and losses."""
    workers: dict[str, tuple[str, ...]]
    """Phases of each worker, by name."""
    gateway_count: int
    engine: SimulatedSettings
    bus_latency_s: float
    link_delay_s: float
    claim_ttl_s: float
    silence_s_max: float
    """How long the ends of a parted link believe in each other."""
    safety_s: float
    arrivals: tuple[Arrival, ...]
    faults: tuple[Fault, ...]
    calm_arrivals: tuple[Arrival, ...]
    spared: tuple[str, ...] = ()
    """Workers that no fault touches: with one of them that decodes, nothing may fail."""


def render(scenario: Scenario) -> bytes:
    """Write a scenario as JSON."""
    return msgspec.json.format(msgspec.json.encode(scenario, order="deterministic"), indent=1)


def read(file: Path) -> Scenario:
    """Read a scenario from a file.

    Raises:
        ConfigurationInvalid: there is none.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=Scenario)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigurationInvalid(key="scenario", message=f"{file} holds no scenario: {error}") from None
