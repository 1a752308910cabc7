"""The gateway process: settings in, edge and conductor up, drain at the first signal, exit code out."""

import asyncio
import logging
import os
import secrets
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from services.bus import nats as nats_bus
from services.domain.errors import ConfigurationInvalid, ServingError
from services.domain.ids import GatewayId
from services.gateway.conductor import Conductor
from services.gateway.edge.assets import ModelAssets
from services.gateway.edge.server import EdgeServer
from services.gateway.process_settings import GatewayProcessSettings
from services.link.grpc_client import GrpcDialer
from services.router.placer import LocalPlacer
from services.router.remote import RemotePlacer
from services.router.router import Router
from services.runtime.clock import LoopClock
from services.runtime.lifecycle import StopSignal, closing_in_time, die_with_parent
from services.runtime.metrics import Meters
from services.runtime.ports_file import write_ports
from services.runtime.tasks import first_of
from services.runtime.telemetry import start_logging

log = logging.getLogger(__name__)


def run(settings: GatewayProcessSettings) -> int:
    """Run a gateway until a signal; returns the exit code."""
    start_logging("gateway", style=settings.log_format)
    die_with_parent(settings.parent_pid)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # batches socket writes
        return runner.run(_run(settings))


async def _run(settings: GatewayProcessSettings) -> int:
    stop = StopSignal()
    stop.install()
    try:
        async with closing_in_time() as closing:
            await _serve(settings, stop, closing)
    except ServingError as error:
        log.error("%s: %s", error.code, error)
        return 2 if isinstance(error, ConfigurationInvalid) else 1
    log.info("stopped")
    return 0


async def _serve(settings: GatewayProcessSettings, stop: StopSignal, closing: AsyncExitStack) -> None:
    """Serve until a signal, then drain.

    Args:
        settings: of the process.
        stop: the signals.
        closing: takes what must be ended, in order.

    Raises:
        ServingError: it cannot start.
    """
    meters, clock = Meters(), LoopClock()
    gateway_id = GatewayId(f"gateway-{secrets.token_hex(6)}")
    assets = {m.name: ModelAssets.load(Path(m.folder)) for m in settings.models}
    bus = await nats_bus.connect(
        settings.bus, name=gateway_id, on_drop=lambda what: meters.count("baton_dropped_total", what=what)
    )
    closing.push_async_callback(bus.close)
    router, remote = Router(settings.router), None
    if settings.router_address is not None:
        remote = RemotePlacer(
            settings.router_address, backup=LocalPlacer(router, clock), clock=clock, tls=settings.link.tls
        )
        closing.push_async_callback(remote.close)
    conductor = Conductor(
        settings.conductor,
        router,
        bus,
        GrpcDialer(settings.link),
        gateway_id=gateway_id,
        clock=clock,
        meters=meters,
        placer=remote,
    )
    closing.push_async_callback(conductor.stop)
    edge = EdgeServer(settings.edge, conductor, meters, assets)
    closing.push_async_callback(edge.stop)
    await conductor.start()
    ports = await edge.start()
    if settings.ports_file is not None:
        write_ports(Path(settings.ports_file), ports)
    log.info("%s serves HTTP on port %d, gRPC on port %d (pid %d)", gateway_id, *ports[:2], os.getpid())
    await stop.asked.wait()
    await _drain(edge, conductor, stop, settings.conductor.drain_timeout_s)


async def _drain(edge: EdgeServer, conductor: Conductor, stop: StopSignal, timeout_s: float) -> None:
    draining = asyncio.gather(edge.drain(timeout_s), conductor.drain(timeout_s))
    forced = asyncio.ensure_future(stop.forced.wait())
    await first_of(draining, forced)
    forced.cancel()
    if draining.done() and not all(await draining):
        log.warning("calls were still open when the drain's %g s were over", timeout_s)
    if not draining.done():
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
