"""The router process: settings in, `RouterService` up, exit code out."""

import asyncio
import logging
import secrets
from pathlib import Path

from services.bus import nats as nats_bus
from services.domain.errors import ConfigurationInvalid, ServingError
from services.domain.ids import GatewayId
from services.link.grpc_client import GrpcDialer
from services.router.process_settings import RouterProcessSettings
from services.router.router import Router
from services.router.shell import RouterServer
from services.runtime.clock import LoopClock
from services.runtime.lifecycle import StopSignal, die_with_parent
from services.runtime.metrics import Meters
from services.runtime.ports_file import write_ports
from services.runtime.probe import Probe
from services.runtime.telemetry import start_logging

log = logging.getLogger(__name__)


def run(settings: RouterProcessSettings) -> int:
    """Run a router until a signal; returns the exit code."""
    start_logging("router", style=settings.log_format)
    die_with_parent(settings.parent_pid)
    return asyncio.run(_run(settings))


async def _run(settings: RouterProcessSettings) -> int:
    stop = StopSignal()
    stop.install()
    meters = Meters()
    probe = Probe(meters)
    router_id = GatewayId(f"router-{secrets.token_hex(6)}")
    try:
        if settings.metrics_port is not None:
            port = probe.serve(settings.link.host, settings.metrics_port)
            log.info("metrics on port %d", port)
            if settings.ports_file is not None:
                write_ports(Path(settings.ports_file), (port,))
        bus = await nats_bus.connect(
            settings.bus,
            name=router_id,
            on_drop=lambda what: meters.count("baton_dropped_total", what=what),
        )
    except ServingError as error:
        log.error("%s: %s", error.code, error)
        return 1
    server = RouterServer(
        Router(settings.router),
        bus,
        GrpcDialer(settings.link),
        router_id=router_id,
        clock=LoopClock(),
        meters=meters,
        tls=settings.link.tls,
    )
    code = 0
    try:
        log.info("%s answers on %s", router_id, await server.start(settings.address))
        probe.ready = True
        await stop.asked.wait()
    except ServingError as error:
        log.error("%s: %s", error.code, error)
        code = 2 if isinstance(error, ConfigurationInvalid) else 1
    finally:
        await server.stop()
        await bus.close()
        probe.close()
        log.info("stopped")
    return code
