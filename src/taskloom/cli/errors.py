"""Errors that are the user's to mend: one line of what is wrong, one of what to do."""

from __future__ import annotations

from rich.text import Text

from taskloom.cli.words import errors_to, one_line_of
from taskloom.failures import message_of

__all__ = ["UserError", "tell"]


class UserError(Exception):
    """Something that only the user can put right. `advice` says how, in one line."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


def tell(error: BaseException, advice: str = "") -> None:
    """Print an error on stderr, without its traceback."""
    console = errors_to()
    line = Text.assemble(("Error: ", "bold red"), one_line_of(message_of(error), 2_000))
    console.print(line, soft_wrap=True, highlight=False)
    if advice:
        console.print(Text(f"  {one_line_of(advice, 2_000)}"), soft_wrap=True, highlight=False)
