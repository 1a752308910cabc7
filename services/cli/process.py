"""`baton worker`, `gateway`, `router`, `planner`: one process of a cluster, from its settings file.

These are what `baton up` and the Helm chart start; people rarely call them by hand. `--set` is for what
stands in no file, because only the place of a process knows it: a pod's name and address.
"""

import argparse
from pathlib import Path
from typing import TypeVar

import msgspec

from planner.process_settings import PlannerProcessSettings
from services.gateway.process_settings import GatewayProcessSettings
from services.router.process_settings import RouterProcessSettings
from services.runtime.settings import override, parse, read_yaml
from services.worker.settings import WorkerProcessSettings

S = TypeVar("S", bound=msgspec.Struct)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommands."""
    for name, run, text in (
        ("worker", _worker, "run one worker process from its settings file"),
        ("gateway", _gateway, "run one gateway process from its settings file"),
        ("router", _router, "run one standalone router process from its settings file"),
        ("planner", _planner, "run the planner, which scales both pools, from its settings file"),
    ):
        command = commands.add_parser(
            name, help=text, description=text, epilog=f"example: baton {name} --settings {name}.yaml"
        )
        command.add_argument(
            "--settings", type=Path, required=True, metavar="FILE", help="YAML or JSON; see docs/settings.md"
        )
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="set one key of the file, e.g. link.advertised_host=10.0.0.7 or workers.0.worker_id=w7",
        )
        command.set_defaults(run=run)


def _read(kind: type[S], options: argparse.Namespace) -> S:
    values = override(read_yaml(options.settings), options.set)
    return parse(kind, values, source=str(options.settings))


def _worker(options: argparse.Namespace) -> int:
    # Imported here: another subcommand must not pay for an engine's imports.
    from services.worker.process import run

    return run(_read(WorkerProcessSettings, options))


def _gateway(options: argparse.Namespace) -> int:
    from services.gateway.process import run

    return run(_read(GatewayProcessSettings, options))


def _router(options: argparse.Namespace) -> int:
    from services.router.process import run

    return run(_read(RouterProcessSettings, options))


def _planner(options: argparse.Namespace) -> int:
    from planner.process import run

    return run(_read(PlannerProcessSettings, options))
