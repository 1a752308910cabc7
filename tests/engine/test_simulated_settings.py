"""Settings of a simulated engine refuse what cannot be simulated."""

import pytest

from services.domain.errors import ConfigurationInvalid
from services.engine.simulated import SimulatedSettings
from services.runtime.settings import parse


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("speedup", {"speedup": 0.0}),
        ("speedup", {"speedup": float("nan")}),
        ("lease_s", {"lease_s": -1.0}),
        ("start_s", {"start_s": -1.0}),
        ("jobs_max", {"jobs_max": 0}),
        ("block_size_tokens", {"block_size_tokens": 0}),
        ("step_tokens_max", {"step_tokens_max": 100, "sequences_max": 101}),
        ("context_tokens_max", {"context_tokens_max": 1601, "kv_blocks": 100}),
        ("context_tokens_max", {"context_tokens_max": 1}),
        ("vocabulary_size", {"vocabulary_size": 261}),
        ("eos_token_id", {"eos_token_id": 300}),
        ("performance", {"performance": "abacus"}),
        ("abacus", {"abacus": 1}),
    ],
)
def test_impossible_values_are_refused_by_name(key: str, values: dict[str, object]) -> None:
    """The refusal names the key at fault."""
    with pytest.raises(ConfigurationInvalid) as refusal:
        parse(SimulatedSettings, values, source="test")
    assert refusal.value.key == key


def test_defaults_are_one_h200() -> None:
    """Without settings the engine is the measured H200: its capacity and its limits agree."""
    limits = SimulatedSettings().limits()
    assert limits.kv_blocks * limits.block_size_tokens == 945_024
    assert SimulatedSettings().effective_performance().decode_step_s == 4.385e-3
