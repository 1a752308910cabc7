"""Tells overload from a burst: whether work has been coming faster than it can be done for a while.

Comes in: whether each new request was served in time. Goes out: whether this is overload by now.
Invariant: overload is a queue that stands: requests have been late or refused for `burst_s`, without a
pause as long. A burst ends by itself and may wait; where a queue stands, waiting only makes everybody
late (K. Nichols, V. Jacobson, Controlling Queue Delay, 2012: a good queue empties, a bad one stands).
Not here: what follows from it (`services.router.placement`).
"""

from dataclasses import dataclass

MODELS_MAX = 256
"""Models remembered; a further one begins with an empty memory."""


@dataclass(slots=True)
class _Episode:
    """Late or refused requests without a long pause."""

    began_s: float
    last_s: float


class Pressure:
    """Episodes of all models."""

    def __init__(self, burst_s: float) -> None:
        self._burst_s = burst_s
        self._episodes: dict[str, _Episode] = {}

    def fold(self, model: str, now_s: float) -> None:
        """Take a request that is late, or was refused for what is ahead of it."""
        episode = self._episodes.get(model)
        if episode is not None and now_s - episode.last_s < self._burst_s:
            episode.last_s = now_s
            return
        if len(self._episodes) >= MODELS_MAX:
            self._episodes.clear()
        self._episodes[model] = _Episode(now_s, now_s)

    def overload(self, model: str, now_s: float) -> bool:
        """Whether the queue of a model stands."""
        episode = self._episodes.get(model)
        if episode is None or now_s - episode.last_s >= self._burst_s:
            return False
        return now_s - episode.began_s >= self._burst_s
