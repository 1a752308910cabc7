"""Rows of the planner's benchmark, and the choice of values for those that are tuned.

Comes in: outcomes. Goes out: the same with the name of their load, and for each tuned scaler the one that the
other loads choose. Not here: running them (`bench_planner`), tables (`planner_summary`).
"""

from collections.abc import Sequence

import msgspec

from planner.proof.outcome import Outcome

GOAL_FRAC = 0.99


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """One outcome with the name of its load."""

    key: str
    outcome: Outcome
    foreseen_ratio: float | None = None
    """Of whole workers with perfect foresight over the bound; None: not computed."""


def chosen(saved: Sequence[Saved], key: str, name: str) -> Outcome:
    """Choose the values of a scaler by the other loads; tell what they give on this one."""
    own = [one for one in saved if one.outcome.scaler == name]

    def merit(values: str) -> tuple[int, float]:
        others = [one.outcome for one in own if one.key != key and one.outcome.values == values] or [
            one.outcome for one in own if one.outcome.values == values
        ]
        reached = sum(one.attained_frac >= GOAL_FRAC for one in others)
        return reached, -sum(one.ratio for one in others) / len(others)

    best = max(sorted({one.outcome.values for one in own}), key=merit)
    return next(one.outcome for one in own if one.key == key and one.outcome.values == best)
