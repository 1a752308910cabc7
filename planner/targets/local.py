"""Worker processes on this machine: pools belong to the launcher of a `baton up`.

Comes in: decisions. Goes out: pools, sentences. Invariant: a decision is one order that carries the version
it was made for, so that whoever changed the pools in between wins and nothing is half done; pools that a
person holds are never written. Workers drain by their own SIGTERM handling, and turn without a restart.
Not here: which workers go or turn (the launcher).

Protocol: `GET /pools`, `PUT /pools` with `services.domain.pools.LaunchOrder`; 409 when it is outdated.
"""

from http import HTTPStatus

import httpx
import msgspec

from planner.decision import Decision
from planner.observation import PoolState
from planner.targets.local_settings import LocalSettings
from planner.targets.port import Outcome, TargetUnavailable
from services.domain.pools import Launched, LaunchedPool, LaunchOrder
from services.domain.worker import Phase

PATH = "/pools"


class Local:
    """Scales the workers of one machine."""

    def __init__(self, settings: LocalSettings, *, client: httpx.AsyncClient | None = None) -> None:
        """Prepare; nothing is read yet.

        Args:
            settings: where the launcher is.
            client: to it; None makes one.
        """
        self._kind = settings.kind
        self._client = client or httpx.AsyncClient(
            base_url=settings.url, timeout=settings.request_timeout_s, trust_env=False
        )
        self._seen: Launched | None = None

    async def pools(self) -> tuple[PoolState, ...]:
        """Ask the launcher."""
        self._seen = _decoded(await self._ask("GET"))
        return tuple(
            PoolState(
                phase=pool.phase,
                kind=self._kind,
                ready_count=pool.ready_count,
                starting_s=pool.starting_s,
                draining_count=pool.draining_count,
                is_held=pool.is_held,
                start_s=self._seen.start_s,
            )
            for pool in self._seen.pools
        )

    async def carry_out(self, decision: Decision) -> Outcome:
        """Order everything at once."""
        if self._seen is None:
            raise TargetUnavailable("the launcher was not asked yet")
        pools = {pool.phase: pool for pool in self._seen.pools}
        held = {phase for phase, pool in pools.items() if pool.is_held}
        turns = {} if held else self._turns(decision)
        wanted = self._sizes(decision)
        changed = {phase: size for phase, size in wanted.items() if size != _size(pools[phase])}
        left = [f"{phase.value} is held by hand" for phase in changed if phase in held]
        sizes = {phase: size for phase, size in wanted.items() if phase not in held}
        done = [
            *(f"{count} {phase.value} turned to {phase.other.value}" for phase, count in turns.items()),
            *(
                f"{phase.value}: {_size(pools[phase])} → {size}"
                for phase, size in changed.items()
                if phase not in held
            ),
        ]
        if not done:
            return Outcome(left=tuple(left))
        order = LaunchOrder(version=self._seen.version, turns=turns, sizes=sizes)
        answer = await self._ask("PUT", msgspec.json.encode(order))
        if answer.status_code == HTTPStatus.CONFLICT:
            return Outcome(left=(*left, "the pools were changed by somebody else; looking again"))
        self._seen = _decoded(answer)
        return Outcome(done=tuple(done), left=tuple(left))

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    def _turns(self, decision: Decision) -> dict[Phase, int]:
        return {flip.source: flip.worker_count for flip in decision.flips if flip.kind == self._kind}

    def _sizes(self, decision: Decision) -> dict[Phase, int]:
        return {order.phase: order.worker_count for order in decision.orders if order.kind == self._kind}

    async def _ask(self, method: str, body: bytes | None = None) -> httpx.Response:
        """Ask once: the next look asks again.

        Raises:
            TargetUnavailable: no answer, or a refusal.
        """
        try:
            answer = await self._client.request(method, PATH, content=body)
        except httpx.HTTPError as error:
            raise TargetUnavailable(f"the launcher does not answer: {error!r}") from None
        if not answer.is_success and answer.status_code != HTTPStatus.CONFLICT:
            raise TargetUnavailable(f"the launcher refuses: {answer.status_code} {answer.text[:200]}")
        return answer


def _size(pool: LaunchedPool) -> int:
    return pool.ready_count + len(pool.starting_s)


def _decoded(answer: httpx.Response) -> Launched:
    try:
        return msgspec.json.decode(answer.content, type=Launched)
    except msgspec.MsgspecError as error:
        raise TargetUnavailable(f"the launcher's answer is not understood: {error}") from None
