"""The worker process: settings in, workers up, drain at the first signal, exit code out.

Comes in: `WorkerProcessSettings`, signals. Goes out: exit code 0 after an orderly stop, 1 when an
engine died or did not come up. Invariant: at exit no process, port or lease of this one is left.
"""

import asyncio
import logging
import os
from pathlib import Path

from services.bus import nats as nats_bus
from services.domain.errors import ServingError
from services.domain.ids import WorkerId
from services.engine.port import Engine
from services.engine.simulated.engine import SimulatedEngine
from services.engine.simulated.fabric import Fabric
from services.engine.simulated.settings import SimulatedSettings
from services.engine.vllm.settings import VllmSettings
from services.link.grpc_server import GrpcLinkServer
from services.runtime.clock import LoopClock
from services.runtime.lifecycle import StopSignal, die_with_parent
from services.runtime.metrics import Meters
from services.runtime.ports_file import write_ports
from services.runtime.probe import Probe
from services.runtime.tasks import first_of
from services.runtime.telemetry import start_logging
from services.worker import following
from services.worker.settings import WorkerProcessSettings, WorkerSettings
from services.worker.worker import Worker

log = logging.getLogger(__name__)


def make_engine(settings: WorkerSettings, fabric: Fabric) -> Engine:
    """Build the engine that the settings name."""
    match settings.engine:
        case SimulatedSettings():
            return SimulatedEngine(settings.engine, worker_id=WorkerId(settings.worker_id), fabric=fabric)
        case VllmSettings():
            # vLLM takes seconds to import; a simulated worker must not pay for it.
            from services.engine.vllm.adapter import VllmEngine

            return VllmEngine(settings.engine, worker_id=WorkerId(settings.worker_id))


def run(settings: WorkerProcessSettings) -> int:
    """Run the workers until a signal; returns the exit code."""
    name = settings.workers[0].worker_id if len(settings.workers) == 1 else "workers"
    start_logging(name, style=settings.log_format)
    die_with_parent(settings.parent_pid)
    if (engine := following.engine_to_follow(settings)) is not None:
        return asyncio.run(following.run(settings, engine))
    return asyncio.run(_run(settings))


async def _run(settings: WorkerProcessSettings) -> int:
    stop = StopSignal()
    stop.install()
    meters = Meters()
    probe = Probe(meters)
    if settings.metrics_port is not None:
        port = probe.serve(settings.link.host, settings.metrics_port)
        log.info("metrics on port %d", port)
        if settings.ports_file is not None:
            write_ports(Path(settings.ports_file), (port,))
    fabric = Fabric()
    workers: list[Worker] = []
    code = 0
    bus = await nats_bus.connect(
        settings.bus,
        name=settings.workers[0].worker_id,
        on_drop=lambda what: meters.count("baton_dropped_total", what=what),
    )
    try:
        for own in settings.workers:
            server = GrpcLinkServer(settings.link, meters=meters)
            engine = make_engine(own, fabric)
            workers.append(Worker(own, engine, bus, server, clock=LoopClock(), meters=meters))
        log.info("loading %d engine(s)", len(workers))
        starting = asyncio.gather(*(w.start() for w in workers))
        if not await _unless_asked(starting, stop):
            return 0
        probe.ready = True
        log.info("ready (pid %d)", os.getpid())
        code = await _serve(workers, stop)
        await _drain(workers, stop, settings.drain_timeout_s)
    except ServingError as error:
        log.error("%s: %s", error.code, error)
        code = 1
    finally:
        await asyncio.gather(*(w.stop() for w in workers))
        await bus.close()
        probe.close()
        log.info("stopped")
    return code


async def _unless_asked(work: "asyncio.Future[list[None]]", stop: StopSignal) -> bool:
    """Wait for work unless a signal comes first; False when it did."""
    asked = asyncio.ensure_future(stop.asked.wait())
    try:
        await first_of(work, asked)
        if work.done():
            work.result()
            return True
        work.cancel()
        await asyncio.wait({work})
        return False
    finally:
        asked.cancel()


async def _serve(workers: list[Worker], stop: StopSignal) -> int:
    """Wait for a signal or a dead engine; returns the exit code."""
    waits = [asyncio.ensure_future(w.failed.wait()) for w in workers]
    asked = asyncio.ensure_future(stop.asked.wait())
    try:
        await first_of(asked, *waits)
        return 0 if asked.done() else 1
    finally:
        for wait in (asked, *waits):
            wait.cancel()


async def _drain(workers: list[Worker], stop: StopSignal, timeout_s: float) -> None:
    alive = [w for w in workers if not w.failed.is_set()]
    draining = asyncio.gather(*(w.drain(timeout_s) for w in alive))
    forced = asyncio.ensure_future(stop.forced.wait())
    await first_of(draining, forced)
    forced.cancel()
    if not draining.done():
        log.warning("second signal: stopping with work unfinished")
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
    elif not all(draining.result()):
        log.warning("drain took longer than %.0f s: stopping with work unfinished", timeout_s)
