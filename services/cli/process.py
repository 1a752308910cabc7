"""`baton worker`, `baton gateway`, `baton router`: one process of a cluster, from its settings file.

These are what `baton up` and the Helm chart start; people rarely call them by hand.
"""

import argparse
from pathlib import Path

from services.gateway.process_settings import GatewayProcessSettings
from services.router.process_settings import RouterProcessSettings
from services.runtime.settings import parse, read_yaml
from services.worker.settings import WorkerProcessSettings


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommands."""
    for name, run, text in (
        ("worker", _worker, "run one worker process from its settings file"),
        ("gateway", _gateway, "run one gateway process from its settings file"),
        ("router", _router, "run one standalone router process from its settings file"),
    ):
        command = commands.add_parser(
            name, help=text, description=text, epilog=f"example: baton {name} --settings {name}.yaml"
        )
        command.add_argument(
            "--settings", type=Path, required=True, metavar="FILE", help="YAML or JSON; see docs/settings.md"
        )
        command.set_defaults(run=run)


def _worker(options: argparse.Namespace) -> int:
    # Imported here: another subcommand must not pay for an engine's imports.
    from services.worker.process import run

    return run(parse(WorkerProcessSettings, read_yaml(options.settings), source=str(options.settings)))


def _gateway(options: argparse.Namespace) -> int:
    from services.gateway.process import run

    return run(parse(GatewayProcessSettings, read_yaml(options.settings), source=str(options.settings)))


def _router(options: argparse.Namespace) -> int:
    from services.router.process import run

    return run(parse(RouterProcessSettings, read_yaml(options.settings), source=str(options.settings)))
