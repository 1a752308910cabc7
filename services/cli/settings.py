"""`baton settings`: what a cluster would run with, or the reference of all settings."""

import argparse

from services.cli.settings_page import render
from services.cli.up import add_cluster_options, read_settings
from services.runtime.settings import dump_yaml

_EXAMPLES = """\
examples:
  baton settings                                   every setting of `baton up` with its default
  baton settings --config cluster.yaml --decode 2  what this file and these flags make of it
  baton settings --engine simulated > cluster.yaml
  baton settings --markdown                        the reference: docs/settings.md
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "settings",
        help="show the settings a cluster would run with",
        description="Print the settings that `baton up` with the same options would run with, as YAML that "
        "--config reads. Starts nothing; an impossible setting is named and the exit code is 2.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_cluster_options(command)
    command.add_argument(
        "--markdown", action="store_true", help="print the reference of all settings instead"
    )
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    print(render() if options.markdown else dump_yaml(read_settings(options)), end="")
    return 0
