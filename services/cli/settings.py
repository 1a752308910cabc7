"""`baton settings`: what a cluster would run with, or the reference of all settings."""

import argparse

from services.cli.settings_page import render
from services.cli.up import add_cluster_options, add_place, read_settings, read_values
from services.cluster.ray.config_file import serve_config
from services.runtime.settings import dump_yaml

_EXAMPLES = """\
examples:
  baton settings                                   every setting of `baton up` with its default
  baton settings --config cluster.yaml --decode 2  what this file and these flags make of it
  baton settings --engine simulated > cluster.yaml
  baton settings --on ray --config cluster.yaml > serve.yaml
                                                   the same cluster as a Serve config file
  baton settings --markdown                        the reference: docs/settings.md
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "settings",
        help="show the settings a cluster would run with",
        description="Print the settings that `baton up` with the same options would run with, as YAML that "
        "--config reads, or as the Serve config file of --on ray. Starts nothing; an impossible setting is "
        "named and the exit code is 2.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_cluster_options(command)
    add_place(command)
    command.add_argument(
        "--markdown", action="store_true", help="print the reference of all settings instead"
    )
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    print(render() if options.markdown else _text(options), end="")
    return 0


def _text(options: argparse.Namespace) -> str:
    settings = read_settings(options)
    if options.on == "ray":
        return dump_yaml(serve_config(settings, read_values(options)))
    return dump_yaml(settings)
