"""When a process is started again is a function of how it ended and how often it was: bounded and patient."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cluster.supervision import GiveUp, Leave, Restart, SupervisionSettings, decide, silence_s
from services.domain.errors import ConfigurationInvalid

SETTINGS = SupervisionSettings(restarts_max=3, window_s=100.0, backoff_min_s=1.0, backoff_max_s=3.0)

deaths = st.lists(st.floats(0.0, 60.0), max_size=60)
"""Times from one death to the next, seconds."""


def test_a_process_that_ended_in_order_stays_away() -> None:
    """Exit code 0 means that somebody asked for it, however often it was started before."""
    assert decide(0, restarts_s=(1.0, 2.0, 3.0), now_s=4.0, settings=SETTINGS) == Leave()


@pytest.mark.parametrize("exit_code", [1, 2, -9, -15])
def test_any_other_end_is_mended(exit_code: int) -> None:
    """An error and a signal are both deaths; the first one is answered after the shortest wait."""
    verdict = decide(exit_code, restarts_s=(), now_s=5.0, settings=SETTINGS)
    assert verdict == Restart(after_s=1.0, restarts_s=(5.0,))


@given(deaths)
def test_restarts_within_a_window_are_bounded(gaps_s: list[float]) -> None:
    """Whenever a process dies, it was started again at most `restarts_max` times in the last window."""
    now_s = 0.0
    restarts_s: tuple[float, ...] = ()
    history: list[float] = []
    for gap_s in gaps_s:
        now_s += gap_s
        verdict = decide(1, restarts_s=restarts_s, now_s=now_s, settings=SETTINGS)
        recent = [moment for moment in history if now_s - moment < SETTINGS.window_s]
        if len(recent) >= SETTINGS.restarts_max:
            assert isinstance(verdict, GiveUp)
            return
        assert isinstance(verdict, Restart)
        assert len(verdict.restarts_s) <= SETTINGS.restarts_max
        restarts_s = verdict.restarts_s
        history.append(now_s)


def test_waits_grow_to_a_bound_and_are_forgotten_with_the_window() -> None:
    """Each death within the window doubles the wait; a process that held out begins anew."""
    waits_s: list[float] = []
    restarts_s: tuple[float, ...] = ()
    for now_s in (0.0, 1.0, 2.0):
        verdict = decide(1, restarts_s=restarts_s, now_s=now_s, settings=SETTINGS)
        assert isinstance(verdict, Restart)
        waits_s.append(verdict.after_s)
        restarts_s = verdict.restarts_s
    assert waits_s == [1.0, 2.0, 3.0]
    later = decide(1, restarts_s=restarts_s, now_s=500.0, settings=SETTINGS)
    assert later == Restart(after_s=1.0, restarts_s=(500.0,))


def test_no_restart_can_be_wanted() -> None:
    """With `restarts_max` 0 the first death is the last, and the reason names the setting."""
    verdict = decide(1, restarts_s=(), now_s=0.0, settings=SupervisionSettings(restarts_max=0))
    assert verdict == GiveUp(reason="supervision.restarts_max is 0")


@given(st.floats(0.0, 20.0), st.floats(0.0, 1e9))
def test_an_answer_ends_a_silence(before_s: float, took_s: float) -> None:
    """However long it lasted, and however late the answer is."""
    assert silence_s(before_s, answered=True, took_s=took_s, settings=SETTINGS) == 0.0


@given(st.floats(0.0, 20.0), st.floats(0.0, 1e9))
def test_a_pause_of_the_supervisor_is_no_silence_of_others(before_s: float, took_s: float) -> None:
    """One question that failed adds no more than two periods, whatever the clock did meanwhile."""
    after_s = silence_s(before_s, answered=False, took_s=took_s, settings=SETTINGS)
    assert before_s <= after_s <= before_s + 2 * SETTINGS.liveness_period_s


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("restarts_max", -1),
        ("window_s", 0.0),
        ("backoff_min_s", 0.0),
        ("backoff_max_s", 0.1),
        ("liveness_period_s", 0.0),
        ("liveness_timeout_s", 1.0),
    ],
)
def test_impossible_settings_are_named(name: str, value: float) -> None:
    """Whatever cannot be is refused with its key."""
    with pytest.raises(ConfigurationInvalid) as refused:
        SupervisionSettings(**{name: value})  # type: ignore[arg-type]  # that is what is tested
    assert refused.value.key == f"supervision.{name}"
