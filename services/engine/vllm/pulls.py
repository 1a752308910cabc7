"""What vLLM's connector says of the transfers that ended in a step: pure.

Comes in: the connector's statistics of one step (vLLM 0.32 `NixlKVConnectorStats`). Goes out: bytes and time.
Not here: whether what was pulled is what was computed (`fingerprints`).
"""

from collections.abc import Mapping
from typing import Any

from services.engine.port import KvPulled


def read_pulled(statistics: Mapping[str, Any] | None) -> KvPulled | None:
    """Read what vLLM's connector says of the transfers that ended in one step.

    Args:
        statistics: lists by name, with seconds and bytes of each transfer; of several devices the lists
            follow one another. None where no connector said anything.
    """
    times_s = (statistics or {}).get("transfer_duration", ())
    if not times_s:
        return None
    moved_bytes = sum((statistics or {}).get("bytes_transferred", ()))
    return KvPulled(moved_bytes=int(moved_bytes), moving_s=float(sum(times_s)))
