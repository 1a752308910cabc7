"""The planner process: settings in, the loop up, exit code out.

It can be killed at any moment: pools keep their size, and the next life learns all it needs by looking.
"""

import asyncio
import logging
import secrets
from contextlib import AsyncExitStack
from pathlib import Path
from typing import assert_never

import msgspec

from planner.journal import Journal
from planner.loop import Loop
from planner.observation import PoolState
from planner.observers.gateways import GatewaysObserver
from planner.observers.port import Observer
from planner.observers.prometheus import PrometheusObserver
from planner.observers.settings import GatewaysSettings, PrometheusSettings
from planner.planner import Planner
from planner.process_settings import DryRunSettings, PlannerProcessSettings
from planner.targets.dry_run import DryRun
from planner.targets.kubernetes.settings import KubernetesSettings
from planner.targets.kubernetes.target import Kubernetes
from planner.targets.local import Local
from planner.targets.local_settings import LocalSettings
from planner.targets.port import Target
from planner.targets.ray import RayServe
from planner.targets.ray_settings import RayServeSettings
from planner.targets.turning import Turning
from planner.turns import Home
from services.bus import nats as nats_bus
from services.bus.fleet import Fleet
from services.bus.port import Bus
from services.domain.errors import ServingError
from services.runtime.clock import LoopClock
from services.runtime.lifecycle import StopSignal, die_with_parent
from services.runtime.metrics import Meters
from services.runtime.ports_file import write_ports
from services.runtime.probe import Probe
from services.runtime.tasks import first_of
from services.runtime.telemetry import start_logging

log = logging.getLogger(__name__)


def run(settings: PlannerProcessSettings) -> int:
    """Run a planner until a signal; returns the exit code."""
    start_logging("planner", style=settings.log_format)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line per question is no event
    die_with_parent(settings.parent_pid)
    return asyncio.run(_run(settings))


async def _run(settings: PlannerProcessSettings) -> int:
    stop, meters = StopSignal(), Meters()
    stop.install()
    probe = Probe(meters)
    try:
        async with AsyncExitStack() as stack:
            if settings.metrics_port is not None:
                port = probe.serve(settings.metrics_host, settings.metrics_port)
                stack.callback(probe.close)
                log.info("metrics on port %d", port)
                if settings.ports_file is not None:
                    write_ports(Path(settings.ports_file), (port,))
            loop = await open_loop(settings, stack, meters)
            if settings.decisions_file is not None:
                journal = Journal(Path(settings.decisions_file), bytes_max=settings.decisions_bytes_max)
                loop.on_look(journal.keep)
            running = asyncio.ensure_future(loop.run())
            stack.callback(running.cancel)
            probe.ready = True
            asked = asyncio.ensure_future(stop.asked.wait())
            stack.callback(asked.cancel)
            await first_of(running, asked)
            if running.done():
                await running
    except ServingError as error:
        log.error("%s: %s", error.code, error)
        return 1
    log.info("stopped; pools keep their size")
    return 0


async def open_loop(
    settings: PlannerProcessSettings, stack: AsyncExitStack, meters: Meters, *, is_dry: bool = False
) -> Loop:
    """Connect observer and target, and tie them to a planner.

    Args:
        settings: of the process.
        stack: closes what is opened.
        meters: of the process.
        is_dry: the target is only read.

    Raises:
        BusUnavailable: NATS does not answer.
        ConfigurationInvalid: something named by the settings is missing.
    """
    clock, planner = LoopClock(), Planner(settings.planner)
    bus = await _bus(settings, stack)
    fleet = None
    if bus is not None:
        fleet = Fleet(bus)
        stack.push_async_callback(fleet.close)
    observer = _observer(settings, clock, bus, fleet)
    stack.push_async_callback(observer.close)
    target = _target(settings, observer, clock, bus, fleet, is_dry=is_dry)
    stack.push_async_callback(target.close)
    loop = Loop(planner, observer, target, clock=clock, meters=meters, blind_look_s=settings.planner.look_s)
    loop.on_look(lambda _look: meters.set("baton_planner_allowed_late_ratio", planner.allowed_late_frac))
    return loop


async def _bus(settings: PlannerProcessSettings, stack: AsyncExitStack) -> Bus | None:
    if settings.worker_bus is None:
        return None
    bus = await nats_bus.connect(settings.worker_bus, name=f"planner-{secrets.token_hex(6)}")
    stack.push_async_callback(bus.close)
    return bus


def _observer(
    settings: PlannerProcessSettings, clock: LoopClock, bus: Bus | None, fleet: Fleet | None
) -> Observer:
    slo = settings.planner.targets.slo
    match settings.observe:
        case GatewaysSettings() as gateways:
            kind = settings.planner.kinds[0]
            return GatewaysObserver(gateways, slo, now_s=clock.now_s, bus=bus, fleet=fleet, kind=kind)
        case PrometheusSettings() as prometheus:
            return PrometheusObserver(prometheus, slo)
        case unreachable:
            assert_never(unreachable)


def _target(
    settings: PlannerProcessSettings,
    observer: Observer,
    clock: LoopClock,
    bus: Bus | None,
    fleet: Fleet | None,
    *,
    is_dry: bool,
) -> Target:
    target: Target
    match settings.target:
        case DryRunSettings():

            async def announced() -> tuple[PoolState, ...]:
                return observer.pools() if isinstance(observer, GatewaysObserver) else ()

            return DryRun(announced)
        case KubernetesSettings() as kubernetes:
            if is_dry:  # who only reads stands for no election
                kubernetes = msgspec.structs.replace(kubernetes, lease=None)
            target = workloads = Kubernetes(kubernetes, now_s=clock.now_s)
            if bus is not None and fleet is not None and settings.planner.limits.flips:
                homes = [Home(phase=one.phase, prefix=f"{one.name}-") for one in kubernetes.workloads]
                target = Turning(
                    workloads, bus, fleet, homes, now_s=clock.now_s, may_turn=lambda: workloads.may_write
                )
        case LocalSettings() as local:
            target = Local(local)
        case RayServeSettings() as ray:
            target = RayServe(ray, now_s=clock.now_s)
            if bus is not None and fleet is not None and settings.planner.limits.flips:
                homes = [Home(phase=one.phase, prefix=f"{one.phase.value}-") for one in ray.deployments]
                target = Turning(target, bus, fleet, homes, now_s=clock.now_s)
        case unreachable:
            assert_never(unreachable)
    return DryRun(target.pools, close=target.close) if is_dry else target
