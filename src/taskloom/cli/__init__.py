"""The command line: `taskloom`, or `python -m taskloom`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command that `sys.argv` asks for, and exit.

    Exit codes: 0 done; 1 failed, with an error on stderr that says what to do; 2 wrong usage.
    """
    from taskloom.cli.app import app
    from taskloom.cli.errors import UserError, tell
    from taskloom.errors import TaskloomError

    try:
        app(prog_name="taskloom")
    except UserError as error:
        tell(error, error.advice)
    except TaskloomError as error:
        tell(error)
    sys.exit(1)
