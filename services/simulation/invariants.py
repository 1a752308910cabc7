"""The invariants: each looks at what was seen of a run and names what was wrong.

Comes in: an observation. Goes out: violations. Invariant: a function of the observation; an empty answer
means that the run kept every promise. Source of the promises: docs/ARCHITECTURE.md.
Not here: seeing (`services.simulation.world`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from services.domain.errors import DeadlineExceeded, DeadlineUnmeetable, Saturated
from services.domain.stream import FinishReason
from services.simulation.observation import ClientEnd, Observation, Outcome

DEADLINE_GRACE_S = 0.1
"""How much later than its deadline a call may end: a turn of messages. A clock's error is added."""

HURRY_S = 1.0
"""A client with such a deadline cannot wait as long as a refusal asks."""

CLOCK_RATE_ERROR = 0.03
"""Most that a simulated clock is wrong per second."""


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """A promise that was broken."""

    invariant: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.what}"


def one_terminal_event(seen: Observation) -> Iterable[str]:
    """Every call that was neither left nor cut off ends in exactly one terminal event, its last."""
    for outcome in seen.outcomes:
        if outcome.end in (ClientEnd.HUNG, ClientEnd.SILENT):
            yield outcome.told()
        if outcome.terminal_count > 1 or outcome.after_terminal_count:
            yield f"{outcome.told()}; {outcome.terminal_count} terminal events"


def tokens_are_the_models(seen: Observation) -> Iterable[str]:
    """A finished call has the model's tokens; any other has a beginning of them."""
    for outcome in seen.outcomes:
        got, truth = outcome.tokens, outcome.truth
        if outcome.end is ClientEnd.DONE and outcome.finish is not FinishReason.ABORTED:
            if got != truth:
                yield f"{outcome.told()}: {_difference(got, truth)}"
        elif got != truth[: len(got)]:
            yield f"{outcome.told()}: {_difference(got, truth)}"
        if outcome.arrival.logprobs and outcome.logprobs != got:
            yield f"{outcome.told()}: {len(outcome.logprobs)} logprobs do not fit the tokens"


def nothing_fails_without_need(seen: Observation) -> Iterable[str]:
    """No call that has a token, and none while a decode worker is untouched, fails but for its deadline."""
    for outcome in seen.outcomes:
        failed = outcome.end is ClientEnd.FAILED and not _of_its_deadline(outcome)
        if failed and (outcome.tokens or seen.scenario.spared):
            yield outcome.told()


def failures_are_honest(seen: Observation) -> Iterable[str]:
    """A call that fails is told an error that another try may mend, or that its time was up."""
    for outcome in seen.outcomes:
        error = outcome.error
        if error is not None and not error.retryable and not isinstance(error, DeadlineExceeded):
            yield outcome.told()


def calm_is_served(seen: Observation) -> Iterable[str]:
    """Once the faults are over, every call is served, and at the first try."""
    for outcome in seen.outcomes:
        if outcome.calm and (outcome.end is not ClientEnd.DONE or outcome.tries > 1):
            yield f"{outcome.told()} in {outcome.tries} tries"


def deadlines_are_kept(seen: Observation) -> Iterable[str]:
    """No call lasts longer than its deadline."""
    for outcome in seen.outcomes:
        limit_s = outcome.arrival.deadline_s * (1 + CLOCK_RATE_ERROR) + DEADLINE_GRACE_S
        if outcome.end is not ClientEnd.HUNG and outcome.ended_s - outcome.began_s > limit_s:
            yield f"{outcome.told()}, deadline {outcome.arrival.deadline_s:g} s"


def nothing_is_left(seen: Observation) -> Iterable[str]:
    """When nobody asks for anything, no block, lease, sequence, task or request is held."""
    return (f"{name}: {count}" for name, count in seen.leftovers.items() if count)


def nothing_lingers(seen: Observation) -> Iterable[str]:
    """A call that ended is soon in no engine and not in the queue any more, whatever the faults."""
    for sample in seen.samples:
        for job in sample.lingering:
            yield f"{job} at {sample.at_s:.1f} s"


def tickets_are_used_once(seen: Observation) -> Iterable[str]:
    """A ticket reaches a decode worker once."""
    return (f"ticket {ticket} was sent {count} times" for ticket, count in seen.tickets.items() if count > 1)


def leases_are_respected(seen: Observation) -> Iterable[str]:
    """No KV block is read after its lease ended."""
    return (f"ticket {ticket} was pulled after its lease" for ticket in seen.late_pulls)


def indexes_are_bounded(seen: Observation) -> Iterable[str]:
    """A router never indexes more of a worker than it can hold."""
    for sample in seen.samples:
        yield from sample.index_over


def indexes_are_true(seen: Observation) -> Iterable[str]:
    """Once the faults are over, every router's index is what the engines hold."""
    return seen.index_differences


def fleets_are_true(seen: Observation) -> Iterable[str]:
    """Once the faults are over, every gateway knows and reaches the workers that run, and no others."""
    return seen.fleet_differences


def load_is_forgotten(seen: Observation) -> Iterable[str]:
    """A router counts no load for a request that ended."""
    return (f"{name} counts {count} placements" for name, count in seen.placements_kept.items() if count)


def everything_ends(seen: Observation) -> Iterable[str]:
    """Faults, drains and recoveries end in their time, and stopping leaves no task behind."""
    yield from seen.stuck
    yield from seen.tasks_left


def nothing_crashes(seen: Observation) -> Iterable[str]:
    """No task of the cluster ends in an exception that nobody expected."""
    return seen.crashes


INVARIANTS: Mapping[str, Callable[[Observation], Iterable[str]]] = {
    check.__name__: check
    for check in (
        one_terminal_event,
        tokens_are_the_models,
        nothing_fails_without_need,
        failures_are_honest,
        calm_is_served,
        deadlines_are_kept,
        nothing_is_left,
        nothing_lingers,
        tickets_are_used_once,
        leases_are_respected,
        indexes_are_bounded,
        indexes_are_true,
        fleets_are_true,
        load_is_forgotten,
        everything_ends,
        nothing_crashes,
    )
}
"""By name."""


def judge(seen: Observation) -> tuple[Violation, ...]:
    """Ask every invariant; in their order, each complaint once."""
    found = {Violation(name, what): None for name, check in INVARIANTS.items() for what in check(seen)}
    return tuple(found)


def _of_its_deadline(outcome: Outcome) -> bool:
    """Whether the client's own hurry ended it: too late, or no time left to try again."""
    if isinstance(outcome.error, Saturated):
        return outcome.arrival.deadline_s <= HURRY_S
    return isinstance(outcome.error, DeadlineExceeded | DeadlineUnmeetable)


def _difference(got: tuple[int, ...], truth: tuple[int, ...]) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(got, truth, strict=False)) if a != b), min(len(got), len(truth))
    )
    return f"differs at token {at}: {got[at : at + 3]} instead of {truth[at : at + 3]}"
