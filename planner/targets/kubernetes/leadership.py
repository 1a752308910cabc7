"""The lease that lets one planner of several act.

Comes in: a lease's name, the API. Goes out: for how long this process may act. Invariant: whoever may act
renewed the lease less than `renew_within_s` ago, counted from before the renewal was sent; a lease that was
lost, deleted or cannot be read ends that at once or runs out. Not here: the rules (`election`).

Protocol: GET of the lease, merge PATCH of its `spec` with the version that was read, so that of two
candidates one gets 409. The lease itself is made by whoever installs the planner.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from planner.targets.kubernetes.api import Api, Conflict
from planner.targets.kubernetes.election import Sighting, acts_until_s, fold, may_take
from planner.targets.kubernetes.objects import Lease, LeaseSpec, decoded
from planner.targets.kubernetes.settings import LeaseSettings
from planner.targets.port import TargetUnavailable

log = logging.getLogger(__name__)


class Leadership:
    """One candidate for a lease."""

    def __init__(
        self, api: Api, settings: LeaseSettings, *, namespace: str, now_s: Callable[[], float]
    ) -> None:
        """Prepare; `run` stands for election.

        Args:
            api: asks; of its own, so that nothing else delays a renewal.
            settings: of the lease.
            namespace: of the lease.
            now_s: the planner's clock.
        """
        self._api = api
        self._settings = settings
        self._path = f"apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{settings.name}"
        self._now_s = now_s
        self._identity = settings.identity or f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self._seen: Sighting | None = None
        self._version = ""
        self._until_s: float | None = None
        self._since = ""
        self._fault = ""

    @property
    def left_s(self) -> float:
        """Time for which this process may act without another renewal, s; 0 when it does not lead."""
        return 0.0 if self._until_s is None else max(0.0, self._until_s - self._now_s())

    @property
    def leader(self) -> str:
        """Who is believed to lead."""
        return "nobody" if self._seen is None or not self._seen.holder else self._seen.holder

    async def run(self) -> None:
        """Stand for election, and renew once elected, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._settings.renew_within_s):
                    await self._stand()
                self._fault = ""
            except (TargetUnavailable, TimeoutError) as error:
                self._tell(f"the lease {self._settings.name} is out of reach: {error}")
            if self._until_s is not None and self.left_s <= 0.0:
                self._step_down("it was not renewed in time")
            await asyncio.sleep(self._settings.retry_s)

    async def release(self) -> None:
        """Give the lease back, so that the next planner need not wait for its end."""
        if self.left_s <= 0.0 or self._seen is None:
            return
        self._until_s = None
        free = msgspec.structs.replace(self._seen.spec, holder_identity="", lease_duration_seconds=1)
        try:
            async with asyncio.timeout(self._settings.retry_s):
                await self._write(free)
        except (TargetUnavailable, TimeoutError) as error:
            log.info("the lease %s runs out by itself: %s", self._settings.name, error)

    async def _stand(self) -> None:
        """Read the lease unless it is ours, and write it when it is ours or free."""
        if self.left_s <= 0.0:
            await self._read()
        seen, sent_s = self._seen, self._now_s()
        if seen is None or not may_take(seen, self._identity, sent_s):
            return
        is_new = self._until_s is None
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self._since = now if is_new else self._since
        spec = LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=self._settings.lease_s,
            acquire_time=self._since,
            renew_time=now,
            lease_transitions=(seen.spec.lease_transitions or 0) + (1 if is_new else 0),
        )
        try:
            await self._write(spec)
        except Conflict:
            await self._read()
            if not is_new and self._seen is not None and self._seen.holder != self._identity:
                self._step_down(f"{self.leader} has it")
            return
        self._until_s = acts_until_s(sent_s, self._settings.renew_within_s)
        if is_new:
            log.warning("this planner leads, as %s", self._identity)

    async def _read(self) -> None:
        before = self.leader
        self._take_in(await self._api.ask("GET", self._path))
        if self.leader not in (before, self._identity):
            log.warning("%s leads; this planner waits", self.leader)

    async def _write(self, spec: LeaseSpec) -> None:
        body = {"metadata": {"resourceVersion": self._version}, "spec": spec}
        self._take_in(await self._api.ask("PATCH", self._path, body))

    def _take_in(self, answer: bytes) -> None:
        lease = decoded(answer, Lease, self._path)
        self._version = lease.metadata.resource_version
        self._seen = fold(self._seen, lease.spec, self._now_s())

    def _step_down(self, why: str) -> None:
        self._until_s = None
        log.warning("this planner no longer leads and writes nothing: %s", why)

    def _tell(self, fault: str) -> None:
        """Log a fault once."""
        if fault != self._fault:
            log.warning("%s", fault)
        self._fault = fault
