"""Names on NATS: one per id, none shared."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.ids import TaskId, WorkerId
from services.wire.subjects import Subjects, from_token, id_in, to_token

IDS = st.text(min_size=1, max_size=80)


@given(IDS)
def test_every_id_becomes_one_plain_token_and_comes_back(text: str) -> None:
    """No id can contain a separator or a wildcard of a subject, and none is confused with another."""
    token = to_token(text)
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", token)
    assert from_token(token) == text
    subjects = Subjects("cluster")
    for subject in (
        subjects.fleet(WorkerId(text)),
        subjects.kv(WorkerId(text)),
        subjects.record(TaskId(text)),
        subjects.body(TaskId(text)),
    ):
        assert id_in(subject) == text


@given(st.text(alphabet="ABab09=_-", max_size=12))
def test_only_tokens_that_we_write_are_read(token: str) -> None:
    """Reading refuses every spelling but the one that writing gives."""
    try:
        text = from_token(token)
    except ValueError:
        return
    assert to_token(text) == token


def test_an_empty_id_has_no_subject() -> None:
    """An empty token would be no subject at all."""
    with pytest.raises(ValueError, match="empty"):
        to_token("")


def test_clusters_share_no_name() -> None:
    """Every name of a cluster holds its namespace, so that another cluster's differs."""

    def names(subjects: Subjects) -> set[str]:
        worker_id, task_id = WorkerId("x"), TaskId("x")
        return {
            subjects.fleet_stream,
            subjects.fleet_all,
            subjects.fleet(worker_id),
            subjects.records_stream,
            subjects.records_all,
            subjects.record(task_id),
            subjects.bodies_stream,
            subjects.bodies_all,
            subjects.body(task_id),
            subjects.kv_all,
            subjects.kv(worker_id),
        }

    assert len(names(Subjects("one"))) == 11
    assert not names(Subjects("one")) & names(Subjects("two"))
