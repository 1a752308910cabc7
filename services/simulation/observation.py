"""What was seen of one run, for invariants to judge.

Comes in: from the world. Goes out: frozen values. Invariant: an observation says what happened, never
whether that was right. Not here: judging (`services.simulation.invariants`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from services.domain.errors import ServingError
from services.domain.ids import TicketId
from services.domain.stream import FinishReason
from services.simulation.scenario import Arrival, Scenario


class ClientEnd(StrEnum):
    """How a client's call ended, as the client sees it."""

    DONE = "done"
    """A terminal event that is no error."""
    FAILED = "failed"
    """A terminal error."""
    LEFT = "left"
    """It closed the call itself."""
    CUT_OFF = "cut off"
    """Its gateway died."""
    UNSERVED = "unserved"
    """There was no gateway to ask in its time."""
    SILENT = "silent"
    """The stream stopped without a terminal event."""
    HUNG = "hung"
    """Neither an end nor an error, long after its deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One client's call."""

    arrival: Arrival
    calm: bool
    """It came after all faults had ended."""
    end: ClientEnd
    tokens: tuple[int, ...]
    logprobs: tuple[int, ...]
    """Token ids of the logprobs it got."""
    truth: tuple[int, ...]
    """What the model writes for this request."""
    finish: FinishReason | None
    error: ServingError | None
    terminal_count: int
    after_terminal_count: int
    """Deltas that came behind the terminal one."""
    tries: int
    """Calls until one was not refused."""
    began_s: float
    """Of the last try."""
    ended_s: float

    def told(self) -> str:
        """One line about it."""
        why = "" if self.error is None else f": {self.error.code}: {self.error}"
        return (
            f"{self.arrival.name} {self.end} with {len(self.tokens)} of {len(self.truth)} tokens "
            f"after {self.ended_s - self.began_s:.3f} s{why}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was held at one moment of a run, at its most."""

    at_s: float
    lingering: tuple[str, ...]
    """Jobs in engines and tasks in the queue whose client's call ended too long ago."""
    index_over: tuple[str, ...]
    """Routers that index more blocks than the workers have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything that was seen."""

    scenario: Scenario
    outcomes: tuple[Outcome, ...]
    samples: tuple[Sample, ...]
    tickets: Mapping[TicketId, int]
    """How often each ticket reached a decode worker."""
    late_pulls: tuple[TicketId, ...]
    """Tickets whose lease had ended when a decode engine came for the blocks."""
    leftovers: Mapping[str, int]
    """What was still held when everything should have been quiet."""
    index_differences: tuple[str, ...]
    """Where a router's index is not what the engine holds, when everything was quiet."""
    fleet_differences: tuple[str, ...]
    """Where a gateway's fleet is not the workers that run, after the faults."""
    placements_kept: Mapping[str, int]
    """Load that routers still count for requests that ended, by gateway."""
    stuck: tuple[str, ...]
    """Parts of the run that did not end in their time."""
    crashes: tuple[str, ...]
    """Tasks of the cluster that ended in an exception nobody expected."""
    tasks_left: tuple[str, ...] = field(default=())
    """Tasks that ran on after everything was stopped."""
