"""Measuring: each figure in a process of its own, ours and theirs by turns, in one run."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Figure", "Options", "Result", "alternate", "database", "measure", "percentile"]

_ROOT = Path(__file__).resolve().parents[1]
_LIMIT = 600.0
"""Seconds that one measurement may take."""

Result = dict[str, float]
"""What one measurement answers, by name; the unit is in the name or in the figure."""


@dataclass(frozen=True)
class Options:
    """How thorough a run is to be."""

    rounds: int = 5
    quick: bool = False
    """Leave out what takes minutes."""
    million: bool = False
    """Let the growth curve on servers go on to a million, which takes minutes more."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table. `ours` and `theirs` hold one number per round, in the same order.

    The bar is on the ratio of ours to theirs (`at_least`, `at_most`) or on our own number
    (`limit`, in `unit`). Without any, the line is there to be compared with.
    """

    what: str
    unit: str
    ours: list[float]
    against: str = ""
    theirs: list[float] | None = None
    at_least: float | None = None
    at_most: float | None = None
    limit: float | None = None

    @property
    def ratios(self) -> list[float]:
        """Ours to theirs, round by round: neighbours in time share the machine's mood."""
        return [mine / other for mine, other in zip(self.ours, self.theirs or [], strict=False)]

    @property
    def ratio(self) -> float | None:
        """The median of the ratios."""
        return median(self.ratios) if self.ratios else None

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached; None where there is none."""
        if self.limit is not None:
            return median(self.ours) <= self.limit
        if self.ratio is not None and self.at_least is not None:
            return self.ratio >= self.at_least
        if self.ratio is not None and self.at_most is not None:
            return self.ratio <= self.at_most
        return None


def measure(function: str, *, python: str = sys.executable, **arguments: Any) -> Result:
    """Call `module:function` of this package in a fresh process and return its answer.

    `python`: the interpreter of another environment, for what cannot run in this one. Memory and
    garbage of one measurement so never weigh on the next. Raises `RuntimeError` with the process's
    error output when it fails.
    """
    command = [python, "-m", "benchmarks.harness", function, json.dumps(arguments)]
    done = subprocess.run(
        command, cwd=_ROOT, capture_output=True, text=True, timeout=_LIMIT, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{function}({arguments}) failed:\n{done.stderr}")
    answer: Result = json.loads(done.stdout.splitlines()[-1])
    return answer


def alternate(
    rounds: int, measurements: Mapping[str, Callable[[], float]]
) -> dict[str, list[float]]:
    """Each measurement once per round, by turns: all see the same drift of the machine."""
    found: dict[str, list[float]] = {name: [] for name in measurements}
    for _ in range(rounds):
        for name, take in measurements.items():
            found[name].append(take())
    return found


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@contextmanager
def database() -> Iterator[str]:
    """The path of a database that does not exist yet, in a directory that goes afterwards."""
    with tempfile.TemporaryDirectory(prefix="taskloom-bench-") as folder:
        yield str(Path(folder) / "tasks.db")


def _child(function: str, arguments: str) -> None:
    module, _, name = function.partition(":")
    answer = getattr(importlib.import_module(f"benchmarks.{module}"), name)(**json.loads(arguments))
    print(json.dumps(answer))


if __name__ == "__main__":
    _child(*sys.argv[1:])
