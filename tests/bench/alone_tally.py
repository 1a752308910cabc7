"""Who was in time, and an early end once too many were not.

Comes in: prompts served, and prompts that still wait. Goes out: whether the goal was met, in figures.
"""

from dataclasses import dataclass, field

from tests.bench.alone_engine import Clock, Prompt

LATE_FRAC_MAX = 0.01
"""Share that may be late."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of one run."""

    clock: Clock
    prompt_count: int
    late_frac_max: float = LATE_FRAC_MAX
    served_count: int = 0
    open: dict[int, Prompt] = field(default_factory=dict)
    late: set[int] = field(default_factory=set)
    ttfts_s: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    """Of each prompt served: its TTFT as a share of what it may be."""

    @property
    def late_max(self) -> int:
        """Prompts that may be late."""
        return int(self.prompt_count * self.late_frac_max)

    @property
    def met(self) -> bool:
        """Whether all were served and few enough were late."""
        return self.served_count == self.prompt_count and len(self.late) <= self.late_max

    def arrived(self, prompt: Prompt) -> None:
        """Count a prompt as waiting."""
        self.open[prompt.index] = prompt

    def served(self, prompt: Prompt, now_s: float) -> None:
        """Count a prompt as computed."""
        del self.open[prompt.index]
        self.served_count += 1
        self.ttfts_s.append(now_s - prompt.arrival_s)
        self.shares.append((now_s - prompt.arrival_s) / prompt.late_s)
        if now_s - prompt.arrival_s > prompt.late_s:
            self._miss(prompt)
        if self.served_count == self.prompt_count:
            self.clock.stop()

    def review(self) -> None:
        """Count those that still wait and are late already; look again in a second."""
        for prompt in self.open.values():
            if self.clock.now_s - prompt.arrival_s > prompt.late_s:
                self._miss(prompt)
        self.clock.after(1.0, self.review)

    def _miss(self, prompt: Prompt) -> None:
        self.late.add(prompt.index)
        if len(self.late) > self.late_max:
            self.clock.stop()
