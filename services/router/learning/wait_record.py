"""How long prompts really wait, beside what the queueing formula says of them.

Comes in: predicted mean waits, and waits that were seen. Goes out: a factor. The formula knows neither
bursts longer than its window nor prompts that decode workers take over, so its waits are wrong by a factor
that stays much the same while the load does; what was seen tells that factor. Invariant: a function of what
was folded, within its bounds.
Not here: the formula (`services.router.roles`).
"""

from math import log

TAIL_PER_MEAN = log(20)
"""95th percentile of a wait over its mean: TTFT is judged by its tail, and waits are about exponential."""
MEMORY_COUNT = 1000
"""Waits after which one counts for 1/e: minutes of a busy cluster, so that a peak is no error."""
BELIEVED_COUNT = 20
"""Weight, in waits, of the belief that the formula is right."""
BELIEVED_S = 0.05
"""Mean wait that is believed in until then."""
FACTOR_MAX = 10.0
"""Most that the formula is taken to be wrong by."""


class WaitRecord:
    """Folds waits of one queue."""

    def __init__(self) -> None:
        """Believe the formula."""
        self._expected_s = self._seen_s = BELIEVED_S
        self._count = BELIEVED_COUNT

    def expect(self, wait_s: float) -> None:
        """Take what the formula said of a prompt whose wait is seen: others would bend the factor."""
        self._expected_s += (wait_s - self._expected_s) / min(self._count, MEMORY_COUNT)

    def fold(self, wait_s: float) -> None:
        """Take how long a prompt waited."""
        self._count += 1
        self._seen_s += (wait_s - self._seen_s) / min(self._count, MEMORY_COUNT)

    @property
    def mean_s(self) -> float:
        """Mean wait that was seen."""
        return self._seen_s

    @property
    def tail_factor(self) -> float:
        """Say by what a predicted mean wait is multiplied to give the 95th percentile that will be seen."""
        if self._expected_s <= self._seen_s / FACTOR_MAX:
            return TAIL_PER_MEAN * FACTOR_MAX
        return TAIL_PER_MEAN * self._seen_s / self._expected_s
