"""Who else may take a task from the prefill queue.

Comes in: changes of the fleet. Goes out: how many may race for a task, and whether one of them is free of
sequences that a prompt would stall. Invariant: this worker counts itself, whatever the bus says.
Not here: what follows from it (`services.prefill.ordering`).
"""

from services.bus.port import FleetChange, WorkerLeft, WorkerSeen
from services.domain.ids import WorkerId
from services.domain.worker import Lifecycle, Phase, WorkerStatus


class Peers:
    """Prefill workers of one model."""

    def __init__(self, worker_id: WorkerId, model: str) -> None:
        """Know only this worker."""
        self._worker_id = worker_id
        self._model = model
        self._is_free: dict[WorkerId, bool] = {}
        """Of the others: whether each decodes nothing and takes work."""

    @property
    def count(self) -> int:
        """Workers that may race for a task, this one included."""
        return 1 + len(self._is_free)

    @property
    def has_free(self) -> bool:
        """Whether another one decodes nothing."""
        return any(self._is_free.values())

    def fold(self, change: FleetChange) -> None:
        """Take a change."""
        match change:
            case WorkerSeen(status=status) if status.worker_id != self._worker_id:
                if status.model == self._model and Phase.PREFILL in status.phases:
                    self._is_free[status.worker_id] = _is_free(status)
                else:
                    self._is_free.pop(status.worker_id, None)  # it was turned
            case WorkerLeft(worker_id=worker_id):
                self._is_free.pop(worker_id, None)


def _is_free(status: WorkerStatus) -> bool:
    return status.lifecycle is Lifecycle.READY and status.load.running_count == 0
