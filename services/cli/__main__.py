"""Entry point of `baton`: reads the command line and runs one subcommand.

Comes in: arguments. Goes out: an exit code: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence

from services.cli import (
    chat,
    demo,
    explain,
    generate,
    plan_command,
    process,
    profiling,
    replay,
    scale,
    settings,
    simulate,
    status,
    up,
)
from services.domain.errors import ConfigurationInvalid, ServingError

_EXAMPLES = """\
examples:
  baton up                                     one prefill and one decode worker, real vLLM, tiny model
  baton up --engine simulated --prefill 8 --decode 8
  baton chat "What is prefill?"
  baton status
  baton explain REQUEST_ID
"""


def make_parser() -> argparse.ArgumentParser:
    """Build the whole command line."""
    parser = argparse.ArgumentParser(
        prog="baton",
        description="Disaggregated LLM serving: prefill and decode on separate pools of workers.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (
        up,
        demo,
        chat,
        generate,
        status,
        explain,
        simulate,
        replay,
        plan_command,
        scale,
        profiling,
        settings,
        process,
    ):
        module.add_to(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `baton`; returns the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ConfigurationInvalid as error:
        print(f"baton: {error}", file=sys.stderr)
        return 2
    except ServingError as error:
        print(f"baton: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left; there is nobody to tell
        return 1


if __name__ == "__main__":
    sys.exit(main())
