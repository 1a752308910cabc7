"""Requests that a gateway counts, at a rate that a test sets: demand as a planner reads it."""

import threading
import time
from dataclasses import dataclass

from services.runtime.metrics import Meters
from tests.planner.test_counters import served


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is asked for.

    Attributes:
        per_s: requests per second.
        prompt: length of each, tokens.
        output: length of each answer, tokens.
    """

    per_s: float = 0.0
    prompt: int = 1
    output: int = 1


NOTHING = Demand()
LONG_ANSWERS = Demand(per_s=40.0, prompt=200, output=450)
"""Work for 1.2 decode workers of the default kind and a tenth of a prefill worker."""
LONG_PROMPTS = Demand(per_s=40.0, prompt=1800, output=20)
"""Work for 1.2 prefill workers and a tenth of a decode worker."""
THREE_WORKERS = {
    "look_s": 0.5,
    "spills": False,
    "limits": {"flips": True},
    "kinds": [{"name": "default", "start_s": 2.0, "workers_max": 3}],
    "targets": {"ttft_s": 1.0, "tpot_s": 0.05},
}
"""Settings of a planner that can only turn workers once it has three: both demands then have an answer."""


class Asked(Meters):
    """Meters of a gateway that is asked steadily; they are brought up to date whenever they are read."""

    def __init__(self) -> None:
        """Nobody asks yet, and somebody did."""
        super().__init__()
        self._lock = threading.Lock()
        self._since_s = time.monotonic()
        self._demand = NOTHING
        served(self, 1)

    def take(self, demand: Demand) -> None:
        """Be asked for this from now on."""
        self.render()
        with self._lock:
            self._demand = demand

    def render(self) -> bytes:
        """Count what was asked since the last time, and write all as a page."""
        with self._lock:
            now_s, demand = time.monotonic(), self._demand
            count = int(demand.per_s * (now_s - self._since_s))
            served(self, count, prompt=demand.prompt, cached=0, output=demand.output)
            self._since_s = self._since_s + count / demand.per_s if demand.per_s else now_s
        return super().render()
