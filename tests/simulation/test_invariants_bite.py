"""Every invariant bites: the code is broken on purpose, and the simulation finds it.

Each case breaks one thing in the product, as a bug would, and names the invariant that has to notice.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.bus.memory.client import MemoryQueue
from services.decode.phase import DecodePhase
from services.domain.errors import InternalFault, WorkerLost
from services.domain.link import StartDecode
from services.domain.stream import Delta
from services.engine.simulated.leases import LeaseDesk
from services.gateway import journey
from services.gateway.conductor import Conductor
from services.gateway.life import DeadlinePassed, Life
from services.gateway.links import LinkPool
from services.gateway.placing import Placing
from services.gateway.reach import Reach
from services.prefill import lookout
from services.prefill import phase as prefill_phase
from services.router.feed import Feed
from services.router.fleet.ledger import Ledger
from services.router.prefixes.index import PrefixIndex
from services.router.prefixes.radix import HeldPrefixes
from services.router.router import Router
from services.simulation.draw import draw
from services.simulation.invariants import INVARIANTS
from services.simulation.run import run
from services.simulation.scenario import Scenario, read
from services.worker.holdings import Holdings
from services.worker.worker import Worker

SEEDS_MAX = 150
"""Seeds after which a broken promise must have been found."""

Patch = pytest.MonkeyPatch
Break = Callable[[Patch], None]


def nothing(*_: object, **__: object) -> None:
    """Do nothing in place of what should be done."""


def swallow_the_end(patch: Patch) -> None:
    """The last delta never reaches the client."""
    whole = Conductor.generate

    async def generate(self: Conductor, *asked: Any) -> AsyncGenerator[Delta]:
        async for delta in whole(self, *asked):
            if delta.finish is None:
                yield delta

    patch.setattr(Conductor, "generate", generate)


def repeat_tokens_after_a_migration(patch: Patch) -> None:
    """A migrated request begins again at the prompt, and nobody drops what the client has."""

    def resume_tokens(_self: Life) -> tuple[int, ...]:
        return ()

    patch.setattr(Life, "resume_tokens", resume_tokens)


def never_try_another_way(patch: Patch) -> None:
    """The first failure of a worker is the end of its requests."""
    patch.setattr(journey, "_mendable", lambda _problem: False)


def call_lost_workers_a_bug(patch: Patch) -> None:
    """What another try would mend is told as if none would."""
    never_try_another_way(patch)
    patch.setattr(WorkerLost, "retryable", False)


def refuse_after_a_while(patch: Patch) -> None:
    """A gateway refuses everything once it has served for five seconds."""
    place = Placing._place

    async def tired(self: Placing, *asked: Any) -> Any:
        if asyncio.get_running_loop().time() > 5.0:
            raise InternalFault(message="tired")
        return await place(self, *asked)

    patch.setattr(Placing, "_place", tired)


def forget_deadlines(patch: Patch) -> None:
    """Nobody looks at the time."""

    @asynccontextmanager
    async def in_time(_self: Reach, _life: Life) -> AsyncIterator[None]:
        yield

    post = Life.post
    patch.setattr(Reach, "in_time", in_time)
    patch.setattr(
        Life, "post", lambda self, mail: None if isinstance(mail, DeadlinePassed) else post(self, mail)
    )
    patch.setattr(DecodePhase, "_expire", nothing)


def keep_leases(patch: Patch) -> None:
    """Leases end neither early nor by themselves."""
    patch.setattr(LeaseDesk, "_expire_later", lambda *_: asyncio.get_running_loop().call_later(1e6, nothing))
    patch.setattr("services.engine.simulated.engine.SimulatedEngine.release", nothing)


def ignore_cancels(patch: Patch) -> None:
    """A decode worker goes on for clients that left."""
    patch.setattr(DecodePhase, "cancel", nothing)


def leave_tasks_in_the_queue(patch: Patch) -> None:
    """What a client no longer wants stays in the queue."""

    async def cancel(*_: object) -> bool:
        return False

    patch.setattr(MemoryQueue, "cancel", cancel)
    patch.setattr(prefill_phase.PrefillPhase, "cancel", nothing)


def send_tickets_twice(patch: Patch) -> None:
    """A ticket is sent a second time, in case the first was lost."""
    send = LinkPool.send

    def twice(self: LinkPool, worker_id: Any, message: Any) -> bool:
        if isinstance(message, StartDecode) and message.ticket is not None:
            send(self, worker_id, message)
        return send(self, worker_id, message)

    patch.setattr(LinkPool, "send", twice)


def use_tickets_of_others(patch: Patch) -> None:
    """A decode worker believes any ticket, and a gateway mixes two up."""
    patch.setattr(DecodePhase, "_ticket_refusal", lambda *_: None)
    start = DecodePhase.start
    last: list[Any] = []

    def mixed(self: DecodePhase, link: Any, message: StartDecode) -> None:
        if message.ticket is not None:
            last.append(message.ticket)
            if len(last) > 1 and last[-2].block_count == last[-1].block_count:
                message = replace(message, ticket=last[-2])
        start(self, link, message)

    patch.setattr(DecodePhase, "start", mixed)


def release_what_may_be_read(patch: Patch) -> None:
    """Blocks of a handoff are freed when its gateway is gone or silent, whoever reads them: found so once."""
    patch.setattr(Reach, "close_offer", lambda self, life: self.answer_offer(life, taken=False, pulled=False))
    patch.setattr(
        prefill_phase.PrefillPhase, "gateway_gone", lambda self, _: [self.cancel(r) for r in list(self._jobs)]
    )


def index_without_bound(patch: Patch) -> None:
    """The index believes what is stored and not what is removed."""
    patch.setattr(HeldPrefixes, "remove", nothing)
    patch.setattr(HeldPrefixes, "clear", nothing)
    patch.setattr(PrefixIndex, "_trim", lambda *_: 0)
    patch.setattr(PrefixIndex, "_renew", nothing)


def never_fetch_snapshots(patch: Patch) -> None:
    """A gap in the KV events is noticed and not mended."""
    patch.setattr(Feed, "_fetch", nothing)


def snapshot_without_the_last_block(patch: Patch) -> None:
    """A worker's snapshot lacks what came last."""
    whole = Holdings.snapshot
    patch.setattr(Holdings, "snapshot", lambda self: replace(whole(self), stored=whole(self).stored[:-1]))


def never_dial_again(patch: Patch) -> None:
    """A gateway gives up a worker whose link broke once."""
    read = LinkPool._read

    async def once(self: LinkPool, worker_id: Any, link: Any) -> None:
        await read(self, worker_id, link)
        self._addresses.pop(worker_id, None)
        self._keepers[worker_id] = asyncio.ensure_future(asyncio.sleep(0))

    patch.setattr(LinkPool, "_read", once)
    patch.setattr(LinkPool, "seen", _seen_once(LinkPool.seen))


def _seen_once(seen: Callable[..., None]) -> Callable[..., None]:
    def see(self: LinkPool, status: Any) -> None:
        ever: set[str] = self.__dict__.setdefault("ever", set())
        if status.worker_id not in ever:
            ever.add(status.worker_id)
            seen(self, status)

    return see


def count_load_for_ever(patch: Patch) -> None:
    """A router never forgets what it placed."""
    patch.setattr(Ledger, "settle", nothing)
    patch.setattr(Ledger, "drop", nothing)
    patch.setattr(Router, "fold_ended", nothing)


def drain_for_ever(patch: Patch) -> None:
    """A worker that drains never says that it is done."""

    async def drain(_self: Worker, _timeout_s: float) -> bool:
        await asyncio.Event().wait()
        return True

    patch.setattr(Worker, "drain", drain)


def stumble_over_the_queue(patch: Patch) -> None:
    """Reading the queue fails when there is something in it."""

    def read(self: Feed, view: Any) -> None:
        if view.tasks():
            raise ValueError("a task")

    patch.setattr(Feed, "_read_queue", read)


def look_again_at_once(patch: Patch) -> None:
    """A wait that is shorter than the clock can tell is no wait: found by simulation, kept as a case."""
    patch.setattr(lookout, "LOOK_AGAIN_S_MIN", 0.0)
    patch.setattr(lookout, "CLAIM_RETRY_S", 0.0)


IN_CALM = frozenset({ignore_cancels})
"""Damage that strict bounds find, which hold where nothing else fails."""

BY_FILE = {leave_tasks_in_the_queue: "tasks_of_a_dead_gateway_stay_in_the_queue"}
"""Damage that needs a rare course of events: the past failure that has it."""

CASES: tuple[tuple[str, Break], ...] = (
    ("one_terminal_event", swallow_the_end),
    ("tokens_are_the_models", repeat_tokens_after_a_migration),
    ("tokens_are_the_models", use_tickets_of_others),
    ("nothing_fails_without_need", never_try_another_way),
    ("failures_are_honest", call_lost_workers_a_bug),
    ("calm_is_served", refuse_after_a_while),
    ("deadlines_are_kept", forget_deadlines),
    ("nothing_is_left", keep_leases),
    ("nothing_lingers", ignore_cancels),
    ("nothing_lingers", leave_tasks_in_the_queue),
    ("tickets_are_used_once", send_tickets_twice),
    ("leases_are_respected", release_what_may_be_read),
    ("indexes_are_bounded", index_without_bound),
    ("indexes_are_true", never_fetch_snapshots),
    ("indexes_are_true", snapshot_without_the_last_block),
    ("fleets_are_true", never_dial_again),
    ("load_is_forgotten", count_load_for_ever),
    ("everything_ends", drain_for_ever),
    ("nothing_crashes", stumble_over_the_queue),
    ("nothing_deadlocks", look_again_at_once),
)


@pytest.mark.parametrize(("invariant", "damage"), CASES, ids=[damage.__name__ for _, damage in CASES])
def test_the_simulation_finds_what_is_broken(invariant: str, damage: Break, monkeypatch: Patch) -> None:
    """With one thing broken, some seed among the first few breaks the invariant that promises it."""
    damage(monkeypatch)
    for scenario in scenarios_for(damage):
        if invariant in {violation.invariant for violation in run(scenario).violations}:
            return
    pytest.fail("no seed found it")


def scenarios_for(damage: Break) -> Iterator[Scenario]:
    """Runs in which the damage has to be found."""
    if damage in BY_FILE:
        yield read(Path(__file__).parent / "regressions" / f"{BY_FILE[damage]}.json")
        return
    for seed in range(SEEDS_MAX):
        scenario = draw(seed)
        yield msgspec.structs.replace(scenario, faults=()) if damage in IN_CALM else scenario


def test_every_invariant_has_a_case() -> None:
    """No invariant is there that was never seen to bite."""
    assert {invariant for invariant, _ in CASES} == {*INVARIANTS, "nothing_deadlocks"}
