"""`baton up`: a cluster on this machine, until Ctrl-C."""

import argparse
import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from services.cli.api import DEFAULT_URL
from services.cli.output import console, stderr
from services.cluster.local import LocalCluster, Progress
from services.cluster.ray.installed import require_ray
from services.cluster.running import Cluster
from services.cluster.settings import ClusterSettings, LauncherSettings
from services.domain.errors import ConfigurationInvalid, EngineFailed
from services.runtime.lifecycle import StopSignal
from services.runtime.settings import parse, read_yaml
from services.runtime.tasks import first_of

if TYPE_CHECKING:
    from services.cluster.ray.deployed import RayCluster

_EXAMPLES = """\
examples:
  baton up                                              one prefill, one decode worker of real vLLM
  baton up --engine simulated --prefill 8 --decode 8    no weights, no computing, up in seconds
  baton up --both 2                                     two soft-roled workers
  baton up --config cluster.yaml --http-port 8080       flags win over the file
  baton up --http-port 0 --grpc-port 0                  free ports, so that clusters run side by side
  baton up --tls-cert tls.crt --tls-key tls.key          HTTPS, and gRPC with TLS
  baton up --plan                                       a planner starts, turns and lets workers go
  baton up --plan planner.yaml --engine simulated       with targets and limits of your own
  baton up --on ray                                     the same parts on a Ray cluster started here
  baton up --on ray --address auto --nats-url nats://10.0.0.5:4222 --config cluster.yaml
                                                        on a Ray cluster that is there
"""

NOTHING = 0
DEFAULT_PLAN = ""

C = TypeVar("C", bound=Cluster)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "up",
        help="run a cluster on this machine",
        description="Start NATS, workers and a gateway on this machine, or on Ray Serve, and replace what "
        "dies; Ctrl-C stops them all.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_cluster_options(command)
    command.add_argument(
        "--plan",
        nargs="?",
        const=DEFAULT_PLAN,
        metavar="FILE",
        help="have a planner scale the pools, with these settings; see docs/planner.md",
    )
    command.add_argument(
        "--launcher-port",
        type=int,
        metavar="PORT",
        help="where `baton scale` and planners order (default: 8002)",
    )
    add_place(command)
    command.set_defaults(run=run)


def add_place(command: argparse.ArgumentParser) -> None:
    """Add the options that say where the parts run."""
    command.add_argument(
        "--on",
        choices=("local", "ray"),
        default="local",
        help="processes of this machine, or Ray Serve; see docs/ray.md (default: local)",
    )
    command.add_argument(
        "--address",
        metavar="ADDRESS",
        help="an existing Ray cluster: auto, host:port (default: RAY_ADDRESS, or start one here)",
    )


def add_cluster_options(command: argparse.ArgumentParser) -> None:
    """Add the options that say what cluster is wanted."""
    command.add_argument("--config", type=Path, metavar="FILE", help="YAML settings; see docs/settings.md")
    command.add_argument("--name", help="namespace on the bus (default: local)")
    command.add_argument(
        "--engine", choices=("vllm", "simulated"), help="engine of all workers (default: vllm)"
    )
    command.add_argument("--model", metavar="FOLDER", help="model folder (default: the tiny model shipped)")
    command.add_argument("--model-name", metavar="NAME", help="name that clients ask for")
    command.add_argument("--prefill", type=int, metavar="N", help="prefill workers (default: 1)")
    command.add_argument("--decode", type=int, metavar="N", help="decode workers (default: 1)")
    command.add_argument("--both", type=int, metavar="N", help="workers with both phases (default: 0)")
    command.add_argument("--http-port", type=int, metavar="PORT", help="0 takes a free one (default: 8000)")
    command.add_argument("--grpc-port", type=int, metavar="PORT", help="0 takes a free one (default: 8001)")
    command.add_argument("--tls-cert", metavar="FILE", help="serve HTTPS and gRPC with TLS: PEM certificate")
    command.add_argument("--tls-key", metavar="FILE", help="PEM private key of --tls-cert")
    command.add_argument(
        "--tls-client-ca", metavar="FILE", help="PEM authorities; clients need a certificate of theirs"
    )
    command.add_argument("--nats-url", metavar="URL", help="an existing NATS server (default: embedded)")
    command.add_argument("--run-folder", metavar="DIR", help="keep settings and logs of all processes here")


_FLAGS: dict[str, tuple[str, ...]] = {
    "name": ("name",),
    "engine": ("engine",),
    "model": ("model", "folder"),
    "model_name": ("model", "name"),
    "prefill": ("pools", "prefill"),
    "decode": ("pools", "decode"),
    "both": ("pools", "both"),
    "http_port": ("edge", "http_port"),
    "grpc_port": ("edge", "grpc_port"),
    "tls_cert": ("edge", "tls", "certificate_file"),
    "tls_key": ("edge", "tls", "key_file"),
    "tls_client_ca": ("edge", "tls", "client_authority_file"),
    "nats_url": ("nats", "url"),
    "run_folder": ("run_folder",),
    "launcher_port": ("launcher", "port"),
    "address": ("ray", "address"),
}


def read_settings(options: argparse.Namespace) -> ClusterSettings:
    """Merge the file and the flags; flags win.

    Raises:
        ConfigurationInvalid: a key is unknown or a value cannot be.
    """
    return parse(ClusterSettings, read_values(options), source=str(options.config or "flags"))


def read_values(options: argparse.Namespace) -> dict[str, object]:
    """Merge the file and the flags into plain values; flags win.

    Raises:
        ConfigurationInvalid: the file cannot be read.
    """
    values = read_yaml(options.config) if options.config else {}
    roles = [getattr(options, role, None) for role in ("prefill", "decode", "both")]
    if roles[2] and roles[:2] == [None, None] and "pools" not in values:
        _set(values, ("pools", "prefill"), NOTHING)
        _set(values, ("pools", "decode"), NOTHING)
    for flag, keys in _FLAGS.items():
        value = getattr(options, flag, None)
        if value is not None:
            _set(values, keys, value)
    return values


def _set(values: dict[str, object], keys: tuple[str, ...], value: object) -> None:
    for key in keys[:-1]:
        if values.get(key) is None:
            values[key] = {}
        inner = values[key]
        if not isinstance(inner, dict):
            return  # the file has something else there; `parse` says so
        values = inner
    values[keys[-1]] = value


def run(options: argparse.Namespace) -> int:
    """Run the subcommand."""
    settings = read_settings(options)
    if options.plan is not None:
        return _run_planned(settings, options)
    if options.on == "local":
        if options.address is not None:
            raise ConfigurationInvalid(key="--address", message="--address: of a Ray cluster; add --on ray")
        return asyncio.run(with_cluster(lambda: LocalCluster(settings), _until_stopped))
    require_ray()
    # Only a module that is asked for may need Ray.
    from services.cluster.ray.deployed import RayCluster

    return asyncio.run(with_cluster(lambda: RayCluster(settings), _until_stopped_on_ray))


def _run_planned(settings: ClusterSettings, options: argparse.Namespace) -> int:
    if options.on != "local":
        raise ConfigurationInvalid(
            key="--plan", message="--plan: for a cluster on this machine; on Ray run `baton planner`"
        )
    # A planner's forecasts need more than any other command imports.
    from services.cli.planning import planner_process, read_plan

    scaled = msgspec.structs.replace(settings, launcher=settings.launcher or LauncherSettings())
    planned = read_plan(Path(options.plan) if options.plan else None, scaled)

    async def work(cluster: LocalCluster, stop: StopSignal) -> int:
        spec = planner_process(cluster, planned, parent_pid=os.getpid())
        cluster.run_beside(spec)
        announce(cluster, f"  planner     {cluster.folder}/{spec.name}.log\n  logs        {cluster.folder}")
        return await until_stopped(cluster, stop)

    return asyncio.run(with_cluster(lambda: LocalCluster(scaled), work))


async def with_cluster(make: Callable[[], C], work: Callable[[C, StopSignal], Awaitable[int]]) -> int:
    """Bring a cluster up, do some work with it, take it down whatever happens.

    Args:
        make: makes the cluster that is wanted; called on the event loop.
        work: called when everything serves; returns the exit code.
    """
    stop = StopSignal()
    stop.install()
    cluster = make()
    asked = asyncio.ensure_future(stop.asked.wait())
    forcing = asyncio.ensure_future(_force(stop, cluster))
    code = 1
    try:
        code = await _start_and_work(cluster, stop, asked, work)
    except EngineFailed as error:
        _print_failure(str(error))
    finally:
        stderr.print(
            "stopping …" if not stop.asked.is_set() else "\nstopping … (Ctrl-C again to stop at once)"
        )
        killed = await cluster.stop(keep_logs=code != 0)
        asked.cancel()
        forcing.cancel()
        if killed:
            stderr.print(f"had to kill: {', '.join(killed)}")
        if code != 0 or cluster.settings.run_folder is not None:
            stderr.print(f"logs are in {cluster.folder}")
    return code


async def _start_and_work(
    cluster: C,
    stop: StopSignal,
    asked: "asyncio.Future[Literal[True]]",
    work: Callable[[C, StopSignal], Awaitable[int]],
) -> int:
    with stderr.status("starting …") as line:
        starting = asyncio.ensure_future(cluster.start(lambda progress: line.update(_words(progress))))
        await first_of(starting, asked)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return 0
        await starting
    return await work(cluster, stop)


def _words(progress: Progress) -> str:
    missing = [name for name in progress.expected if name not in progress.ready]
    shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
    state = f"{len(progress.ready)} of {len(progress.expected)} workers ready"
    waiting = f", waiting for {shown}" if missing else ""
    gateway = "" if progress.gateway_ready else ", gateway starting"
    return f"{progress.elapsed_s:.0f} s: {state}{waiting}{gateway}"


async def _force(stop: StopSignal, cluster: Cluster) -> None:
    await stop.forced.wait()
    cluster.force()


async def _until_stopped(cluster: LocalCluster, stop: StopSignal) -> int:
    announce(cluster, f"  logs        {cluster.folder}")
    return await until_stopped(cluster, stop)


async def _until_stopped_on_ray(cluster: "RayCluster", stop: StopSignal) -> int:
    announce(cluster, f"  Ray         {cluster.whereabouts}")
    return await until_stopped(cluster, stop)


async def until_stopped(cluster: Cluster, stop: StopSignal) -> int:
    """Keep the cluster up until a signal; a process that dies too often is an error."""
    asked = asyncio.ensure_future(stop.asked.wait())
    supervising = asyncio.ensure_future(cluster.supervise(_print_news))
    await first_of(asked, supervising)
    asked.cancel()
    if not supervising.done():
        supervising.cancel()
        await asyncio.wait({supervising})
        return 0
    failure = supervising.result()
    if stop.asked.is_set() or not failure:
        return 0
    _print_failure(failure)
    return 1


def _print_news(text: str) -> None:
    stderr.print(text, style="yellow", markup=False, soft_wrap=True)


def _print_failure(text: str) -> None:
    """Print lines of a log as they are: neither brackets nor long lines mean anything to us."""
    stderr.print(text, style="red", markup=False, soft_wrap=True)


def _program() -> str:
    """How the reader can call this command: by its name if that is on the path, else as we were called."""
    return "baton" if shutil.which("baton") else os.path.relpath(sys.argv[0])


def announce(cluster: Cluster, more: str) -> None:
    """Say where the cluster is and what to try.

    Args:
        cluster: that serves.
        more: one line about where to look when something is wrong.
    """
    pools = cluster.settings.pools
    console.print(
        f"[bold]ready[/bold]: {pools.prefill} prefill, {pools.decode} decode, {pools.both} both "
        f"({cluster.settings.engine} engines), model {cluster.settings.model.name}"
    )
    console.print(f"  OpenAI API  {cluster.http_url}/v1")
    console.print(f"  gRPC        {cluster.grpc_address}")
    for other in cluster.addresses[1:]:
        console.print(f"  one more    {other.http_url}/v1, gRPC {other.grpc_address}")
    if isinstance(cluster, LocalCluster) and cluster.launcher_url:
        console.print(f"  launcher    {cluster.launcher_url}")
    console.print(more, soft_wrap=True)
    url = "" if cluster.http_url == DEFAULT_URL else f" --url {cluster.http_url}"
    if (tls := cluster.settings.edge.tls) is not None:
        url += " --cacert FILE" + (" --cert FILE --key FILE" if tls.client_authority_file else "")
    console.print("try, in another terminal (Ctrl-C here stops everything):")
    for command in ('chat "What is prefill?"', "status", "explain"):
        console.print(f"  {_program()} {command}{url}", soft_wrap=True)
