"""The mirror of the queue: what a reader is shown, whatever happens in whatever order."""

from hypothesis import given
from hypothesis import strategies as st

from services.bus.mirror import QueueMirror, age
from services.domain.ids import TaskId, WorkerId
from services.domain.task import Claim
from tests.bus.samples import task

CLAIM_TTL_S = 5.0
AGE_MAX_S = 100.0

NAMES = st.sampled_from(["a", "b", "c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), NAMES, st.booleans()),
        st.tuples(st.just("remove"), NAMES, st.just(False)),
        st.tuples(st.just("reread"), NAMES, st.just(False)),
        st.tuples(st.just("wait"), st.sampled_from(["1", "4", "5", "30"]), st.just(False)),
    ),
    max_size=60,
)


@given(STEPS)
def test_what_is_shown_is_told_as_removed_exactly_once(steps: list[tuple[str, str, bool]]) -> None:
    """Each task is shown until one removal is told, each claim while its revision is young enough."""
    mirror = QueueMirror(claim_ttl_s=CLAIM_TTL_S, task_age_max_s=AGE_MAX_S)
    shown: set[str] = set()
    written: dict[str, tuple[float, bool]] = {}
    now_s = 0.0
    revision = 0
    for step, name, claimed in steps:
        match step:
            case "put":
                revision += 1
                claim = Claim(worker_id=WorkerId("w"), attempt=1) if claimed else None
                record = task(name, deadline_s=20.0).record
                mirror.put(record, claim=claim, attempts=1, revision=revision, now_s=now_s)
                if TaskId(name) in mirror:
                    shown.add(name)
                    written[name] = (now_s, claimed)
            case "remove":
                assert mirror.remove(TaskId(name)) == (name in shown)
                shown.discard(name)
            case "reread":
                gone = mirror.keep_only({TaskId(name)})
                assert set(gone) == shown - {name}
                shown &= {name}
            case _:
                target_s = now_s + float(name)
                while (due_s := mirror.due_s()) is not None and due_s <= target_s:
                    passed = mirror.pass_time(due_s)
                    assert set(passed.removed) <= shown
                    shown -= set(passed.removed)
                now_s = target_s
        tasks = mirror.tasks(now_s)
        assert {t.record.task_id for t in tasks} == shown
        for queued in tasks:
            at_s, was_claimed = written[queued.record.task_id]
            assert (queued.claim is not None) == (was_claimed and now_s < at_s + CLAIM_TTL_S)
            assert queued.waited_s < 20.0


def test_a_lower_revision_is_taken_as_a_bus_that_began_anew() -> None:
    """After the bus lost its state numbers start again; the mirror follows instead of standing still."""
    mirror = QueueMirror(claim_ttl_s=CLAIM_TTL_S, task_age_max_s=AGE_MAX_S)
    record = task("a").record
    mirror.put(record, claim=None, attempts=0, revision=900, now_s=0.0)
    mirror.put(record, claim=None, attempts=0, revision=2, now_s=1.0)
    shown = mirror.get(TaskId("a"), 1.0)
    assert shown is not None
    assert shown.revision == 2


def test_aging_shortens_what_is_left() -> None:
    """A record that is passed on carries the time left now; no deadline stays no deadline."""
    aged = age(task("a", deadline_s=10.0).record, 3.0)
    assert (aged.deadline_s, aged.ttft_target_s) == (7.0, -1.0)
    assert age(task("a", deadline_s=None).record, 3.0).deadline_s is None
