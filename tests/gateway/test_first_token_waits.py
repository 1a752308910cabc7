"""A first token is held until the second can follow: within the target, or a usual step for short outputs."""

from dataclasses import replace

import pytest

from services.domain.first_gap import PLANNED_FRAC
from services.domain.performance import PRESETS
from services.gateway.pacing import first_token_hold_s
from tests.wire.samples import TICKET

MODEL = PRESETS["dynamo-mocker"]
STEP_S, TARGET_S = 0.008, 0.025
MOVES_S = 0.03
LARGE = replace(TICKET, kv_bytes=round((MOVES_S - MODEL.handoff_s) * MODEL.transfer_bytes_per_s))


def hold_s(output_tokens: int | None) -> float:
    """Seconds for which the first token of such an output waits for 30 ms of KV."""
    return first_token_hold_s(
        LARGE, MODEL, step_s=STEP_S, tpot_target_s=TARGET_S, output_tokens=output_tokens
    )


@pytest.mark.parametrize("output_tokens", [None, 500])
def test_a_long_output_may_begin_with_the_longest_gap(output_tokens: int | None) -> None:
    """One gap in some hundred is not its tail; of an output of unknown length the same is believed."""
    assert hold_s(output_tokens) == pytest.approx(MOVES_S + STEP_S - PLANNED_FRAC * TARGET_S, abs=1e-6)


def test_a_short_output_begins_at_its_pace() -> None:
    """Its token waits for the KV, and the second follows a step later."""
    assert hold_s(20) == pytest.approx(MOVES_S, abs=1e-6)


def test_what_is_there_already_is_not_held() -> None:
    """A prompt without KV to move, and a step within the target."""
    nothing = replace(TICKET, kv_bytes=0)
    assert first_token_hold_s(
        nothing, MODEL, step_s=STEP_S, tpot_target_s=TARGET_S, output_tokens=500
    ) == pytest.approx(0.0)
