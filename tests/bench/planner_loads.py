"""The loads on which planners are compared: recorded ones, and made ones.

Comes in: the folder of traces. Goes out: loads, each with a quiet time before it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from planner.proof.load import Load, led_in
from planner.proof.made_loads import flash_crowd, sine, step_up
from planner.proof.trace_loads import request_load, window_load
from planner.proof.trace_text import TracedRequests, TracedWindows, parse_trace

LEAD_S, LIKE_S = 1200.0, 120.0
HOUR_S = 3600.0

AZURE_2024 = "azure2024/azure2024_conv_rpm_digitised.csv"
SERVEGEN = "servegen/servegen_m-large_load.csv"
AZURE_2023 = "azure2023/AzureLLMInferenceTrace_code.csv"
MOONCAKE = "mooncake/conversation_trace.jsonl"
RECORDED = frozenset({
    "azure-2024", "azure-2024-x20", "servegen", "code-40x", "code-40", "conversation-8x", "conversation-8"
})  # fmt: skip
"""Loads that need the folder of traces."""


def loads(traces: Path | None, *, seed: int) -> Mapping[str, Callable[[], Load]]:
    """Name the loads, and say how each is made.

    Args:
        traces: folder of the recorded ones; None: the made ones only may be asked for.
        seed: of everything drawn.
    """

    def read(path: str) -> TracedRequests | TracedWindows:
        assert traces is not None
        return parse_trace((traces / path).read_text(encoding="utf-8"))

    def windows(path: str, name: str, factor: float = 1.0) -> Load:
        trace = read(path)
        assert isinstance(trace, TracedWindows)
        return window_load(name, trace, speed=1.0, step_s=10.0, seed=seed, factor=factor)

    def requests(path: str, name: str, *, speed: float = 1.0, copies: int = 1) -> Load:
        trace = read(path)
        assert isinstance(trace, TracedRequests)
        return request_load(name, trace, speed=speed, step_s=1.0, copies=copies)

    made: dict[str, Callable[[], Load]] = {
        "azure-2024": lambda: windows(AZURE_2024, "Azure 2024 week"),
        "azure-2024-x20": lambda: windows(AZURE_2024, "Azure 2024 week, 20 times the requests", 20.0),
        "servegen": lambda: windows(SERVEGEN, "ServeGen two weeks"),
        "code-40x": lambda: requests(AZURE_2023, "Azure 2023 code, sped up 40x", speed=40.0),
        "code-40": lambda: requests(AZURE_2023, "Azure 2023 code, 40 at once", copies=40),
        "conversation-8x": lambda: requests(MOONCAKE, "conversations, sped up 8x", speed=8.0),
        "conversation-8": lambda: requests(MOONCAKE, "conversations, 8 at once", copies=8),
        "sine-150s": lambda: sine(
            low_per_s=5, high_per_s=45, period_s=150, periods=16, step_s=1.0, seed=seed
        ),
        "sine-1h": lambda: sine(
            low_per_s=5, high_per_s=45, period_s=HOUR_S, periods=3, step_s=1.0, seed=seed
        ),
        "step": lambda: step_up(
            low_per_s=15, high_per_s=45, at_s=HOUR_S, end_s=2 * HOUR_S, step_s=1.0, seed=seed
        ),
        "flash": lambda: flash_crowd(
            rate_per_s=20, factor=5, at_s=HOUR_S, crowd_s=900, rise_s=30, end_s=3 * HOUR_S, step_s=1.0,
            seed=seed,
        ),
    }  # fmt: skip
    return {name: _later(make, seed) for name, make in made.items()}


def _later(make: Callable[[], Load], seed: int) -> Callable[[], Load]:
    return lambda: led(make(), seed)


def led(load: Load, seed: int) -> Load:
    """Put a quiet time before a load."""
    return led_in(load, lead_s=LEAD_S, like_s=LIKE_S, seed=seed + 1)


def shortened(load: Load, end_s: float) -> Load:
    """Take only the beginning of a load's counted part."""
    steps = min(load.steps, round((load.counted_from_s + end_s) / load.step_s))
    arrivals, prompts, uncached, outputs, contexts = (array[:steps] for array in load.series())
    return replace(
        load,
        arrivals=arrivals,
        prompt_tokens=prompts,
        uncached_tokens=uncached,
        output_tokens=outputs,
        context_tokens=contexts,
    )
