"""Settings of the scale target on this machine.

Comes in: the `target` section of a planner's settings. Goes out: a frozen struct.
Not here: requests (`local`).
"""

from typing import Annotated

import msgspec


class LocalSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="target", tag="local"
):
    """Worker processes of a `baton up`, started, turned and let go by its launcher."""

    url: str = "http://127.0.0.1:8002"
    """Of the launcher, as `baton up` prints it; the default is that of its setting `launcher`."""

    kind: str = "default"
    """Kind of all its workers, as in `planner.kinds`."""

    request_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    """For one answer."""
