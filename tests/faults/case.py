"""What rules look at, and what they find."""

from __future__ import annotations

from collections.abc import Mapping

from history import History
from msgspec import Struct
from recorder import Final

__all__ = ["TERMINAL", "Case", "Rules", "Violation"]

TERMINAL = frozenset({"executed", "failed", "expired", "ignored", "cancelled"})


class Rules(Struct, frozen=True):
    """What the workers were configured with, and what is tolerated; in seconds."""

    lease: float = 1.0
    max_deliveries: int = 5
    recovery: float = 2.0
    """Beyond the lease, until what a killed process ran starts again."""
    skew: float = 0.05
    beside: bool = False
    """Flows and projections are not in the transactions of the tasks: more of them."""
    apart: bool = False
    """Queue and storage are two things: adding takes steps, and not every task has a row."""
    forgets: bool = False
    """The queue does not know that a task was put before: children of a parent that runs again."""
    in_steps: bool = False
    """There are no transactions: of what a client adds that dies, some may be kept."""


class Violation(Struct, frozen=True):
    """A promise that was not kept."""

    invariant: str
    task: str
    text: str

    def __str__(self) -> str:
        return f"{self.invariant}: task {self.task or '-'}: {self.text}"


class Case(Struct, frozen=True):
    """All that a rule looks at."""

    history: History
    finals: dict[str, Final]
    rules: Rules
    figures: Mapping[str, int] | None
