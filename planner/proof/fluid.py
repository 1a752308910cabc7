"""The fluid cluster: one prefill queue and one decode pool, step of the load by step.

Comes in: the work of a load, workers that serve. Goes out: for each step what `grading` needs to tell who met
the targets. Work flows; the waiting that chance adds within a step is `grading`'s.

Prefill: what arrives and can be in time stands in one queue, served at the pace of well filled steps. What
would wait longer than the TTFT target allows stands behind the rest, as in Baton's order of claims, and
is refused once it has waited `PATIENCE_S`. What the prefill workers cannot do spills to decode workers, as
far as that keeps their steps within `SPILL_FRAC` of the TPOT target.
Decode: the number of running sequences follows `dN/dt = admitted - N / (tokens x step time)`, with the step
time of so many sequences per worker; beyond batch, memory and target they wait.
Invariant: requests in = requests refused + finished + waiting + running. Not here: who starts workers
(`fleet`).
"""

import math
from dataclasses import dataclass, field

import numpy as np

from planner.observation import Backlog
from planner.proof.fleet import Capacity
from planner.proof.load import Floats
from planner.proof.work import Work

PATIENCE_S = 10.0
"""A request that is late anyway is refused when it has waited so long, as by default in a burst."""
SPILL_FRAC = 0.8
"""Decode workers take prompts while their step stays below so much of the TPOT target, as Baton's do."""
SEATS_FRAC = 0.95
"""Sequences wait for a seat where one more would make the decode step longer than so much of the TPOT target:
under overload Baton's router lets in what meets the targets, with a margin that it learns."""
SEAT_WAIT_FRAC = 0.5
"""Requests wait for a seat for so much of what prefill leaves of the TTFT target."""
DECODE_SUBSTEPS = 3
"""Per step of the load: the relaxation within each is exact for a fixed step time."""


@dataclass(slots=True)
class Course:
    """What happened in each step; every array has shape [steps].

    Attributes:
        servers: workers that could prefill, those of the decode pool in parts.
        queue_s: mean wait for what stood in the queue.
        late_frac: share of the possible requests that had to stand behind the others, the longest.
        refused: requests of mean work turned away, of those that no idle cluster would have served in time.
        running: sequences that decoded, mean.
        decoders: workers that decoded.
        spilled: share of a decode worker's time that prefill took.
        stuck: requests refused for want of a seat.
    """

    servers: Floats
    queue_s: Floats
    late_frac: Floats
    refused: Floats
    running: Floats
    decoders: Floats
    spilled: Floats
    stuck: Floats

    @classmethod
    def empty(cls, steps: int) -> "Course":
        """Make room for so many steps."""
        return cls(*(np.zeros(steps) for _ in range(8)))


@dataclass(slots=True)
class FluidCluster:
    """Queues between workers.

    Attributes:
        work: of the load.
        spills: decode workers take prompts that the prefill workers cannot do.
        course: written up to the present step.
        queued: requests that can be in time.
        late: requests that no longer can.
        long: requests that never could.
        running: sequences that decode.
        waiting_decode: sequences without a seat.
        refused: requests turned away so far.
        finished: requests whose last token was written so far.
    """

    work: Work
    spills: bool = True
    course: Course = field(init=False)
    queued: float = 0.0
    late: float = 0.0
    long: float = 0.0
    running: float = 0.0
    waiting_decode: float = 0.0
    refused: float = 0.0
    finished: float = 0.0
    _arrivals: list[float] = field(init=False)
    _queued_s: list[float] = field(init=False)
    _own_s: list[float] = field(init=False)
    _possible: list[float] = field(init=False)
    _sequence_s: list[float] = field(init=False)
    _tokens: list[float] = field(init=False)
    _seats: list[float] = field(init=False)

    def __post_init__(self) -> None:
        """Take the arrays apart: single numbers of lists are quicker."""
        work, steady = self.work, self.work.steady
        self.course = Course.empty(work.load.steps)
        self._arrivals = work.load.arrivals.tolist()
        self._queued_s = np.maximum(work.queued_s, 1e-9).tolist()
        self._own_s = (work.engine.performance.prefill_step_s + steady.prompt_s).tolist()
        self._possible = steady.possible_work_frac.tolist()
        self._sequence_s = steady.sequence_s.tolist()
        self._tokens = work.later_tokens.tolist()
        room_s = SEATS_FRAC * work.slo.tpot_s - work.engine.performance.decode_step_s
        self._seats = np.clip(room_s / steady.sequence_s, 1.0, steady.seats).tolist()

    def step(self, place: int, capacity: Capacity) -> None:
        """Let one step of the load pass.

        Args:
            place: of the step.
            capacity: workers that serve during it.
        """
        spare = self._spare(place, capacity.decode) if self.spills else 0.0
        prefilled = self._prefill(place, capacity, spare)
        self._decode(place, capacity.decode, prefilled)

    def life_s(self, place: int, decoders: float) -> float:
        """Tell how long a sequence decodes at the present pace."""
        return self._tokens[place] * self._step_s(place, decoders)

    def backlog(self, place: int) -> Backlog:
        """Tell a scaler what is there and not done."""
        waiting, load = self.queued + self.late + self.long, self.work.load
        running = self.running + self.waiting_decode
        return Backlog(
            waiting_count=round(waiting),
            waiting_tokens=round(waiting * float(load.uncached_tokens[place])),
            running_count=round(running),
            running_context_tokens=round(running * float(load.context_tokens[place])),
        )

    def _step_s(self, place: int, decoders: float) -> float:
        batch = min(self.running / decoders, self._seats[place]) if decoders > 0 else 0.0
        return self.work.engine.performance.decode_step_s + self._sequence_s[place] * batch

    def _spare(self, place: int, decoders: float) -> float:
        """Say which share of a decode worker's time prefill may take.

        None where a single prompt would stall a whole output beyond the target.
        """
        target_s = self.work.slo.tpot_s * SPILL_FRAC
        step_s = self._step_s(place, decoders)
        if decoders <= 0 or self._own_s[place] > self._tokens[place] * (self.work.slo.tpot_s - step_s) / 2:
            return 0.0
        return max(0.0, 1.0 - step_s / target_s)

    def _prefill(self, place: int, capacity: Capacity, spare: float) -> float:
        """Serve the queue; returns the requests that were prefilled.

        All numbers are requests of mean work; what the course tells is turned into requests by their length.
        """
        step_s, queued_s = self.work.load.step_s, self._queued_s[place]
        arrived, before = self._arrivals[place], self.queued
        possible = arrived * self._possible[place]
        servers = capacity.prefill + spare * capacity.decode
        per_s = servers / queued_s
        waiting = before + possible
        served = min(waiting, per_s * step_s)
        waiting -= served
        slack_s = max(0.0, self.work.slo.ttft_s - self._own_s[place])
        late = max(0.0, waiting - per_s * slack_s)
        self.queued = waiting - late
        caught_up, refused = self._behind(place, late, arrived - possible, per_s, per_s * step_s - served)
        done = served + caught_up
        over = max(0.0, done * queued_s / step_s - capacity.prefill)
        course = self.course
        course.servers[place] = servers
        if late > 0:
            share = min(1.0, late / max(possible, 1e-9))
            course.late_frac[place] = self.work.steady.longest_frac(share, place)
        course.refused[place] = refused
        course.queue_s[place] = (before + self.queued) / 2 / per_s if per_s > 0 else 0.0
        course.spilled[place] = min(over / capacity.decode, spare) if capacity.decode > 0 else 0.0
        return done

    def _behind(self, place: int, late: float, long: float, per_s: float, room: float) -> tuple[float, float]:
        """Serve those behind with what is left, and refuse what has waited too long.

        Args:
            place: of the step.
            late: requests that have become late.
            long: requests that no idle cluster would serve in time.
            per_s: requests prefilled per second.
            room: requests that can be served now.

        Returns:
            Requests served, and long ones refused.
        """
        behind = self.late + self.long + late + long
        if behind <= 0:
            return 0.0, 0.0
        long_frac = (self.long + long) / behind
        caught_up = min(behind, room)
        behind -= caught_up
        most = max(per_s, self._arrivals[place] / self.work.load.step_s) * PATIENCE_S
        refused = max(0.0, behind - most)
        behind -= refused
        self.late, self.long = behind * (1.0 - long_frac), behind * long_frac
        self.refused += refused
        return caught_up, refused * long_frac

    def _decode(self, place: int, decoders: float, begun: float) -> None:
        course, step_s = self.course, self.work.load.step_s
        fixed_s, each_s = self.work.engine.performance.decode_step_s, self._sequence_s[place]
        seats, tokens = self._seats[place], self._tokens[place]
        sub_s, part, mean = step_s / DECODE_SUBSTEPS, begun / DECODE_SUBSTEPS, 0.0
        pace = 1.0 - course.spilled[place]
        freed = pace * decoders * seats * sub_s / (tokens * (fixed_s + each_s * seats))
        running = self.running
        for _ in range(DECODE_SUBSTEPS):
            if decoders <= 0:
                self.waiting_decode += part
                mean += running / DECODE_SUBSTEPS
                continue
            # Two looks at the step time: before, and at the middle, of the substep.
            middle = running
            for look in range(2):
                batch = min(middle / decoders, seats)
                ends_per_s = pace / (tokens * (fixed_s + each_s * batch))
                if look == 0:
                    room = max(0.0, seats * decoders - running) + freed
                    admitted = min(part + self.waiting_decode, room)
                    self.waiting_decode += part - admitted
                kept = math.exp(-ends_per_s * sub_s)
                level = admitted / sub_s / ends_per_s
                after = running * kept + level * (1 - kept)
                middle = (running + after) / 2
            mean += (level + (running - level) * (1 - kept) / (ends_per_s * sub_s)) / DECODE_SUBSTEPS
            self.finished += running + admitted - after
            running = after
        self.running = running
        course.running[place] = mean
        course.decoders[place] = decoders
        slack_s = max(0.0, self.work.slo.ttft_s - self._own_s[place]) * SEAT_WAIT_FRAC
        refused = max(0.0, self.waiting_decode - freed * DECODE_SUBSTEPS / step_s * slack_s)
        self.waiting_decode -= refused
        self.refused += refused
        course.stuck[place] = refused
