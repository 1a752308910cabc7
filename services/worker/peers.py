"""Who else may take a task from the prefill queue, and who may read what this worker hands over.

Comes in: changes of the fleet. Goes out: how many may race for a task, whether one of them is free of
sequences that a prompt would stall, whether anybody reads KV of a layout. Invariant: this worker counts
itself, whatever the bus says. Not here: what follows from it (`services.prefill.ordering`).
"""

from services.bus.port import FleetChange, WorkerLeft, WorkerSeen
from services.domain.ids import WorkerId
from services.domain.worker import Lifecycle, Phase, WorkerStatus


class Peers:
    """The other workers of one model."""

    def __init__(self, worker_id: WorkerId, model: str) -> None:
        """Know only this worker."""
        self._worker_id = worker_id
        self._model = model
        self._is_free: dict[WorkerId, bool] = {}
        """Of those that prefill: whether each decodes nothing and takes work."""
        self._layouts: dict[WorkerId, str] = {}
        """Of those that take sequences: what KV each can read."""

    @property
    def count(self) -> int:
        """Workers that may race for a task, this one included."""
        return 1 + len(self._is_free)

    @property
    def has_free(self) -> bool:
        """Whether another one decodes nothing."""
        return any(self._is_free.values())

    def can_read(self, layout: str) -> bool:
        """Whether somebody who takes sequences may read KV of a layout; nobody known may yet appear."""
        return not self._layouts or layout in self._layouts.values()

    def fold(self, change: FleetChange) -> None:
        """Take a change."""
        match change:
            case WorkerSeen(status=status) if status.worker_id != self._worker_id:
                self._forget(status.worker_id)  # it may have been turned
                if status.model == self._model and Phase.PREFILL in status.phases:
                    self._is_free[status.worker_id] = _is_free(status)
                if status.model == self._model and _takes_sequences(status):
                    self._layouts[status.worker_id] = status.limits.compatibility
            case WorkerLeft(worker_id=worker_id):
                self._forget(worker_id)

    def _forget(self, worker_id: WorkerId) -> None:
        self._is_free.pop(worker_id, None)
        self._layouts.pop(worker_id, None)


def _is_free(status: WorkerStatus) -> bool:
    return status.lifecycle is Lifecycle.READY and status.load.running_count == 0


def _takes_sequences(status: WorkerStatus) -> bool:
    return status.lifecycle is Lifecycle.READY and Phase.DECODE in status.phases
