"""A process of an engine over several machines that does not lead: it computes, and nobody calls it.

Comes in: settings whose engine has a rank above 0, signals. Goes out: exit code 0 when it was asked to stop,
1 when a device or the leader was lost. Invariant: at SIGTERM it computes on until the leader is
gone, which drains meanwhile; whoever starts it bounds that. Not here: the devices (`services.engine.vllm`).
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from services.domain.errors import ServingError
from services.engine.vllm.settings import NodesSettings, VllmSettings
from services.runtime.lifecycle import StopSignal
from services.runtime.metrics import Meters
from services.runtime.probe import Probe
from services.runtime.tasks import first_of
from services.worker.settings import WorkerProcessSettings

if TYPE_CHECKING:
    from services.engine.vllm.follower import Follower

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks at the leader."""
MISSED_MAX = 5
"""Looks without an answer after which the leader is gone."""


def engine_to_follow(settings: WorkerProcessSettings) -> VllmSettings | None:
    """Find the engine whose leader runs elsewhere; None when this process leads its engines."""
    engine = settings.workers[0].engine
    return engine if isinstance(engine, VllmSettings) and engine.follows else None


async def run(settings: WorkerProcessSettings, engine: VllmSettings) -> int:
    """Follow until the leader is gone; returns the exit code."""
    from services.engine.vllm.follower import Follower  # vLLM takes seconds to import

    stop, probe = StopSignal(), Probe(Meters())
    stop.install()
    if settings.metrics_port is not None:
        log.info("metrics on port %d", probe.serve(settings.link.host, settings.metrics_port))
    try:
        follower = Follower(engine)
    except ServingError as error:
        log.error("%s: %s", error.code, error)
        probe.close()
        return 1
    try:
        if not await _loaded(follower, engine, stop):
            return 0
        probe.ready = True
        log.info("ready")
        await _until_over(follower, engine, stop)
    except TimeoutError:
        log.error("the machines of this engine did not gather within %g s", engine.boot_timeout_s)
        return 1
    finally:
        probe.close()
        await asyncio.to_thread(follower.close)
    if stop.asked.is_set():
        log.info("the leader is gone, as was asked; stopped")
        return 0
    log.error("a device or the leader was lost")
    return 1


async def _loaded(follower: "Follower", engine: VllmSettings, stop: StopSignal) -> bool:
    """Gather and load; False when a signal came first.

    Raises:
        TimeoutError: the machines did not gather.
    """
    loading = _in_thread(follower.start)
    asked = asyncio.ensure_future(stop.asked.wait())
    try:
        async with asyncio.timeout(engine.boot_timeout_s):
            await first_of(loading, asked)
    finally:
        asked.cancel()
    if loading.done():
        loading.result()
    return loading.done()


async def _until_over(follower: "Follower", engine: VllmSettings, stop: StopSignal) -> None:
    """Wait until a device or the leader ends, or a second signal comes."""
    gone = asyncio.ensure_future(_leader_is_gone(engine.nodes))
    forced = asyncio.ensure_future(stop.forced.wait())
    await first_of(_in_thread(follower.wait), gone, forced)
    gone.cancel()
    forced.cancel()


def _in_thread(work: Callable[[], None]) -> "asyncio.Future[None]":
    """Run what blocks in a thread that does not keep the process alive."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish(error: BaseException | None) -> None:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)

    def run_it() -> None:
        failure: BaseException | None = None
        try:
            work()
        except Exception as error:  # noqa: BLE001  # whatever vLLM raises is told to whoever waits
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(finish, failure)

    threading.Thread(target=run_it, name="follower", daemon=True).start()
    return done


async def _leader_is_gone(nodes: NodesSettings | None) -> None:
    """Return when nobody has answered at the leader's port for a while."""
    missed = 0
    while nodes is not None and missed < MISSED_MAX:
        await asyncio.sleep(LOOK_S)
        missed += 1
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(LOOK_S):
                _reader, writer = await asyncio.open_connection(nodes.leader_host, nodes.leader_port)
            writer.close()
            missed = 0
