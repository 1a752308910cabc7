"""Names on NATS: streams, buckets and subjects of one cluster.

Comes in: a cluster's name and our ids. Goes out: names that NATS takes. Invariant: two clusters never
share a name; an id of any characters becomes one token and comes back equal, so that no id can address
anything but itself. Not here: what travels under the names (`services.wire.codec`).
"""

import re
from dataclasses import dataclass

from services.domain.ids import TaskId, WorkerId

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_ESCAPED = re.compile(rb"=([0-9A-F]{2})")


def to_token(text: str) -> str:
    """Write an id as one subject token: bytes other than letters, digits, `-`, `_` become `=XX`.

    Raises:
        ValueError: the id is empty.
    """
    if not text:
        raise ValueError("an empty id has no subject")
    return "".join(chr(b) if b in _PLAIN else f"={b:02X}" for b in text.encode("utf-8", "surrogatepass"))


def from_token(token: str) -> str:
    """Read an id back from its token.

    Raises:
        ValueError: the token was not written by `to_token`.
    """
    raw = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), token.encode("ascii"))
    text = raw.decode("utf-8", "surrogatepass")
    if to_token(text) != token:
        raise ValueError(f"{token!r} is no token of an id")
    return text


@dataclass(frozen=True, slots=True)
class Subjects:
    """The names of one cluster; buckets are laid out as NATS key-value stores, for their usual tools."""

    namespace: str
    """Letters, digits, `-` and `_`."""

    @property
    def fleet_stream(self) -> str:
        """Stream behind the fleet bucket: one status per worker."""
        return f"KV_{self.namespace}-fleet"

    @property
    def fleet_all(self) -> str:
        """Every worker's status."""
        return f"$KV.{self.namespace}-fleet.*"

    def fleet(self, worker_id: WorkerId) -> str:
        """One worker's status."""
        return f"$KV.{self.namespace}-fleet.{to_token(worker_id)}"

    @property
    def records_stream(self) -> str:
        """Stream behind the bucket of the prefill queue's records."""
        return f"KV_{self.namespace}-prefill"

    @property
    def records_all(self) -> str:
        """Every task's record."""
        return f"$KV.{self.namespace}-prefill.*"

    def record(self, task_id: TaskId) -> str:
        """One task's record and claim."""
        return f"$KV.{self.namespace}-prefill.{to_token(task_id)}"

    @property
    def bodies_stream(self) -> str:
        """Stream of the prefill queue's bodies."""
        return f"{self.namespace}-prefill-bodies"

    @property
    def bodies_all(self) -> str:
        """Every task's body."""
        return f"baton.{self.namespace}.prefill.body.*"

    def body(self, task_id: TaskId) -> str:
        """One task's request."""
        return f"baton.{self.namespace}.prefill.body.{to_token(task_id)}"

    @property
    def kv_all(self) -> str:
        """Every worker's KV events."""
        return f"baton.{self.namespace}.kv.*"

    def kv(self, worker_id: WorkerId) -> str:
        """One worker's KV events."""
        return f"baton.{self.namespace}.kv.{to_token(worker_id)}"

    def role(self, worker_id: WorkerId) -> str:
        """Orders to one worker."""
        return f"baton.{self.namespace}.role.{to_token(worker_id)}"


def id_in(subject: str) -> str:
    """Read the id that ends a subject.

    Raises:
        ValueError: the subject does not end in the token of an id.
    """
    return from_token(subject.rpartition(".")[2])
