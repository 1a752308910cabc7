"""A policy that sees the fleet late sees what was true, only later."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.replay.cluster import Cluster
from services.replay.policy import Fleet, Mechanisms, Way, WorkerState
from services.replay.sequence import Job
from services.replay.traces import Trace
from tests.replay.scenery import LateBound, engine, trace_of, traces


class Watcher(LateBound):
    """Places in turn at once, and remembers what it saw."""

    def __init__(self, fleet: Fleet) -> None:
        """See nothing yet."""
        super().__init__(fleet, Mechanisms())
        self.fleet = fleet
        self.states: list[WorkerState] = []
        self.overlaps: list[int] = []
        self.jobs: list[Job] = []

    def arrive(self, job: Job, now_s: float) -> Way:
        """Look at the first worker, and place there."""
        self.jobs.append(job)
        self.states.append(self.fleet.state(0))
        self.overlaps.append(self.fleet.overlap_blocks(0, job.block_names))
        return Way(prefill=0, decode=0)


def watched(
    trace: Trace, *, status_delay_s: float = 0.0, event_delay_s: float = 0.0
) -> tuple[Watcher, Cluster]:
    """Replay on one small worker."""
    made: list[Watcher] = []

    def make(fleet: Fleet) -> Watcher:
        made.append(Watcher(fleet))
        return made[0]

    cluster = Cluster(
        trace,
        engine(kv_blocks=40),
        worker_count=1,
        policy=make,
        itl_slo_s=0.02,
        status_delay_s=status_delay_s,
        event_delay_s=event_delay_s,
    )
    cluster.run()
    return made[0], cluster


@settings(max_examples=40, deadline=None)
@given(trace=traces(prompt_max=50), event_delay_s=st.sampled_from([0.01, 1.0]))
def test_once_all_events_have_arrived_both_views_agree(trace: Trace, event_delay_s: float) -> None:
    """Through evictions, whatever the delay."""
    watcher, cluster = watched(trace, event_delay_s=event_delay_s)
    cluster.forward(event_delay_s)
    for job in watcher.jobs:
        seen = watcher.fleet.overlap_blocks(0, job.block_names)
        assert seen == cluster.workers[0].cache.overlap_blocks(job.block_names)


def test_an_event_is_seen_after_its_delay() -> None:
    """A prefix computed at 0 is known at 0.2 when events take 0.1 s, not when they take 0.5 s."""
    trace = trace_of((0.0, 16, 1, [1] * 4), (0.2, 16, 1, [1] * 4))
    assert watched(trace)[0].overlaps == [0, 4]
    assert watched(trace, event_delay_s=0.1)[0].overlaps == [0, 4]
    assert watched(trace, event_delay_s=0.5)[0].overlaps == [0, 0]


def test_a_status_is_as_old_as_the_last_one_sent() -> None:
    """Statuses every 0.3 s: what runs at 0.25 is unknown, what runs at 0.35 is known."""
    trace = trace_of((0.0, 8, 100, ()), (0.25, 8, 100, ()), (0.35, 8, 1, ()))
    present = watched(trace)[0].states
    late = watched(trace, status_delay_s=0.3)[0].states
    assert [state.decode_count for state in present] == [0, 1, 2]
    assert [state.decode_count for state in late] == [0, 0, 2]
