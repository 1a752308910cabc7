"""Draws a scenario from a seed: any cluster, any load, any faults, within bounds that keep a run short.

Comes in: a seed. Goes out: a scenario. Invariant: a function of the seed alone; every kind of fault,
every way of a request and every end of a client is drawn often.
Not here: what the parts mean (`services.simulation.scenario`).
"""

from collections.abc import Callable
from random import Random

from services.engine.simulated.settings import SimulatedSettings
from services.simulation.scenario import (
    EVERYONE,
    Arrival,
    Blow,
    BreakLink,
    CorruptPulls,
    CrashEngine,
    CutBus,
    CutLink,
    DrainWorker,
    DropCache,
    Fault,
    HangEngine,
    KillGateway,
    KillWorker,
    LoseBusState,
    LoseReplies,
    MangleKvEvents,
    Passing,
    PauseWorker,
    Scenario,
    SkewClock,
    SlowNetwork,
    SlowWorker,
    Strike,
    TurnWorker,
)

PREFILL, DECODE = ("prefill",), ("decode",)
BOTH = ("decode", "prefill")
PASSINGS: tuple[Passing, ...] = ("claimed", "offer", "start", "accepted", "frame", "answer")
BLOWS: tuple[Blow, ...] = ("kill", "kill", "crash", "break link", "hang", "pause", "cut link")
ARRIVALS_MAX = 24
FAULTS_MAX = 10
CALM_FRAC = 0.08
"""Runs without any fault: there, stricter bounds hold."""
CALM_ARRIVALS = 4


def draw(seed: int) -> Scenario:
    """Make the scenario of a seed."""
    chance = Random(seed)  # noqa: S311  # no secret
    workers = _draw_workers(chance)
    gateway_count = chance.choice((1, 1, 2, 3))
    engine = _draw_engine(chance)
    safety_s = chance.uniform(4.0, 20.0)
    spared = _draw_spared(chance, workers)
    stage = _Stage(
        chance,
        workers=workers,
        gateway_count=gateway_count,
        engine=engine,
        safety_s=safety_s,
        spared=spared,
    )
    return Scenario(
        seed=seed,
        workers=workers,
        gateway_count=gateway_count,
        engine=engine,
        bus_latency_s=chance.choice((0.0, 0.0003, 0.002)),
        link_delay_s=chance.choice((0.0, 0.0002, 0.003)),
        claim_ttl_s=chance.choice((1.5, 5.0)),
        silence_s_max=engine.lease_s / 3,
        safety_s=safety_s,
        arrivals=stage.arrivals(chance.randint(4, ARRIVALS_MAX)),
        faults=() if chance.random() < CALM_FRAC else stage.faults(chance.randint(1, FAULTS_MAX)),
        calm_arrivals=stage.calm_arrivals(),
        spared=spared,
    )


def _draw_workers(chance: Random) -> dict[str, tuple[str, ...]]:
    workers: dict[str, tuple[str, ...]] = {}
    for index in range(chance.randint(0, 3)):
        workers[f"prefill-{index}"] = PREFILL
    for index in range(chance.randint(1, 3)):
        workers[f"decode-{index}"] = DECODE
    for index in range(chance.choice((0, 0, 1, 2))):
        workers[f"both-{index}"] = BOTH
    return workers


def _draw_spared(chance: Random, workers: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    decoders = sorted(name for name, phases in workers.items() if "decode" in phases)
    return (chance.choice(decoders),) if chance.random() < 0.6 else ()


def _draw_engine(chance: Random) -> SimulatedSettings:
    block_size = chance.choice((16, 32))
    return SimulatedSettings(
        performance=chance.choice(("h200-llama-3.1-8b-fp8", "h100-llama-3.1-8b-bf16", "cpu-baton-tiny")),
        block_size_tokens=block_size,
        kv_blocks=chance.choice((160, 512, 4096)),
        context_tokens_max=2048,
        sequences_max=chance.choice((4, 16, 256)),
        step_tokens_max=chance.choice((256, 1024, 8192)),
        lease_s=chance.choice((1.5, 3.0, 30.0)),
        health_timeout_s=chance.choice((1.0, 5.0)),
        eos_every_tokens=chance.choice((0, 50, 200)),
    )


class _Stage:
    """Draws what happens in a cluster that is already drawn."""

    def __init__(
        self,
        chance: Random,
        *,
        workers: dict[str, tuple[str, ...]],
        gateway_count: int,
        engine: SimulatedSettings,
        safety_s: float,
        spared: tuple[str, ...],
    ) -> None:
        self._chance = chance
        self._workers = sorted(workers)
        self._mortal = [name for name in self._workers if name not in spared]
        self._gateway_count = gateway_count
        self._engine = engine
        self._safety_s = safety_s
        self._busy_s: tuple[float, ...] = (0.0,)
        """Moments at which requests begin."""

    # Clients

    def arrivals(self, count: int) -> tuple[Arrival, ...]:
        """Clients of the safety phase; sometimes all at once."""
        window_s = self._safety_s * self._chance.choice((0.02, 0.1, 0.6, 0.9))
        drawn = [self._arrival(f"r{i}", self._chance.uniform(0.0, window_s)) for i in range(count)]
        self._busy_s = tuple(arrival.at_s for arrival in drawn)
        return tuple(sorted(drawn, key=lambda arrival: (arrival.at_s, arrival.name)))

    def calm_arrivals(self) -> tuple[Arrival, ...]:
        """Clients of the liveness phase: none leaves, none is in a hurry."""
        return tuple(
            Arrival(
                name=f"calm{i}",
                at_s=0.05 * i,
                gateway=i % self._gateway_count,
                first_token_id=300 + 50 * i,
                prompt_tokens=100 + 150 * i,
                output_tokens_max=8,
                path=("auto", "remote", "local", "auto")[i],
            )
            for i in range(CALM_ARRIVALS)
        )

    def _arrival(self, name: str, at_s: float) -> Arrival:
        chance = self._chance
        output = chance.choice((1, 2, 8, 30, 120, 300))
        fits = self._engine.kv_blocks * self._engine.block_size_tokens // 2
        prompt = min(chance.choice((1, 16, 31, 32, 64, 100, 300, 900, 1500)) + chance.choice((0, 0, 1)), fits)
        leaves = chance.random()
        return Arrival(
            name=name,
            at_s=at_s,
            gateway=chance.randrange(self._gateway_count),
            first_token_id=chance.choice((300, 300, 300 + chance.randrange(1000))),
            prompt_tokens=prompt,
            output_tokens_max=output,
            seed=chance.choice((None, None, chance.randrange(1000))),
            logprobs=chance.random() < 0.2,
            json_schema=chance.random() < 0.1,
            priority=chance.choice((0, 0, 0, 1)),
            path=chance.choice(("auto", "auto", "remote", "remote", "local")),
            deadline_s=chance.choice((60.0, 60.0, 60.0, 60.0, 5.0, 0.5, 0.05)),
            leaves_after_s=chance.uniform(0.0, 1.0) if leaves < 0.15 else None,
            leaves_after_tokens=chance.randint(1, output) if 0.15 <= leaves < 0.25 else None,
        )

    # Faults

    def faults(self, count: int) -> tuple[Fault, ...]:
        """Faults of the safety phase, in order of time."""
        makers: list[Callable[[float], Fault]] = [
            self._cut_bus,
            self._lose_bus_state,
            self._lose_replies,
            self._slow_network,
            self._mangle,
            self._skew,
            self._kill_gateway,
        ]
        if self._mortal:
            makers += [
                self._kill,
                self._kill,
                self._crash,
                self._hang,
                self._pause,
                self._slow,
                self._drain,
                self._drain,
                self._turn,
                self._turn,
                self._strike,
                self._strike,
                self._strike,
                self._strike,
                self._corrupt,
                self._drop_cache,
                self._cut_link,
                self._break_link,
            ]
        drawn = [self._chance.choice(makers)(self._when()) for _ in range(count)]
        return tuple(sorted(drawn, key=lambda fault: fault.at_s))

    def _when(self) -> float:
        """A moment; mostly soon after a request began."""
        chance = self._chance
        if chance.random() < 0.3:
            return chance.uniform(0.0, self._safety_s * 0.9)
        return chance.choice(self._busy_s) + chance.choice((0.0, 0.05, 0.5)) * chance.random()

    def _while_s(self) -> float:
        return self._chance.choice((0.02, 0.3, 2.0, 6.0, 13.0))

    def _worker(self) -> str:
        return self._chance.choice(self._mortal)

    def _gateway(self) -> int:
        return self._chance.randrange(self._gateway_count)

    def _process(self) -> str:
        gateways = [f"gateway-{index}" for index in range(self._gateway_count)]
        return self._chance.choice([*self._workers, *gateways])

    def _kill(self, at_s: float) -> Fault:
        return KillWorker(at_s=at_s, worker=self._worker(), back_after_s=self._while_s())

    def _strike(self, at_s: float) -> Fault:
        return Strike(
            at_s=at_s,
            message=self._chance.choice(PASSINGS),
            nth=self._chance.choice((1, 1, 2, 5, 20)),
            delay_s=self._chance.choice((0.0, 0.0, 0.001, 0.01)),
            blow=self._chance.choice(BLOWS),
            for_s=self._while_s(),
        )

    def _corrupt(self, at_s: float) -> Fault:
        return CorruptPulls(at_s=at_s, worker=self._worker(), count=self._chance.randint(1, 4))

    def _crash(self, at_s: float) -> Fault:
        return CrashEngine(at_s=at_s, worker=self._worker())

    def _hang(self, at_s: float) -> Fault:
        return HangEngine(at_s=at_s, worker=self._worker(), for_s=self._while_s())

    def _pause(self, at_s: float) -> Fault:
        return PauseWorker(at_s=at_s, worker=self._worker(), for_s=self._while_s())

    def _slow(self, at_s: float) -> Fault:
        factor = self._chance.choice((2.0, 10.0, 50.0))
        return SlowWorker(at_s=at_s, worker=self._worker(), factor=factor, for_s=self._while_s())

    def _drain(self, at_s: float) -> Fault:
        return DrainWorker(
            at_s=at_s,
            worker=self._worker(),
            patience_s=self._chance.choice((0.1, 40.0)),
            back_after_s=self._while_s(),
        )

    def _turn(self, at_s: float) -> Fault:
        phases = self._chance.choice((PREFILL, DECODE, BOTH))
        return TurnWorker(at_s=at_s, worker=self._worker(), phases=phases, for_s=self._while_s())

    def _drop_cache(self, at_s: float) -> Fault:
        return DropCache(at_s=at_s, worker=self._worker())

    def _kill_gateway(self, at_s: float) -> Fault:
        return KillGateway(at_s=at_s, gateway=self._gateway(), back_after_s=self._while_s())

    def _cut_bus(self, at_s: float) -> Fault:
        process = self._chance.choice((EVERYONE, self._process()))
        return CutBus(at_s=at_s, process=process, for_s=self._while_s())

    def _lose_bus_state(self, at_s: float) -> Fault:
        return LoseBusState(at_s=at_s)

    def _lose_replies(self, at_s: float) -> Fault:
        return LoseReplies(at_s=at_s, process=self._process(), count=self._chance.randint(1, 3))

    def _cut_link(self, at_s: float) -> Fault:
        return CutLink(at_s=at_s, gateway=self._gateway(), worker=self._worker(), for_s=self._while_s())

    def _break_link(self, at_s: float) -> Fault:
        return BreakLink(at_s=at_s, gateway=self._gateway(), worker=self._worker())

    def _slow_network(self, at_s: float) -> Fault:
        return SlowNetwork(at_s=at_s, delay_s=self._chance.choice((0.01, 0.2)), for_s=self._while_s())

    def _mangle(self, at_s: float) -> Fault:
        return MangleKvEvents(
            at_s=at_s,
            lost_frac=self._chance.choice((0.0, 0.1, 1.0)),
            repeated_frac=self._chance.choice((0.0, 0.3)),
            delay_s=self._chance.choice((0.0, 0.5)),
            for_s=self._while_s(),
        )

    def _skew(self, at_s: float) -> Fault:
        return SkewClock(
            at_s=at_s,
            process=self._process(),
            rate=self._chance.choice((0.98, 1.0, 1.02)),
            jump_s=self._chance.choice((0.0, 0.5, 20.0)),
        )
