"""The figures as a table for people and as JSON for comparing runs."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Figure
from benchmarks.noise import Noise
from benchmarks.servers import SETTINGS

__all__ = ["show", "write"]

_PACKAGES = (
    *("taskloom", "sqlalchemy", "asyncpg", "redis", "msgspec"),
    *("pymongo", "secantusdb", "aiobotocore", "moto"),
    *("huey", "taskiq", "taskiq-redis", "dramatiq", "streaq", "pgqueuer", "procrastinate"),
)


def show(figures: Sequence[Figure], noise: Noise) -> None:
    """Print the table, and below it how far the machine can be trusted."""
    table = Table(title="Medians of rounds by turns; ratios round by round", title_justify="left")
    for name in ("what", "ours", "against", "theirs", "ratio", "range", "bar", "met"):
        side = "left" if name in ("what", "against") else "right"
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    for figure in figures:
        table.add_row(*_cells(figure))
    console = Console(width=None if os.isatty(1) else 170)
    console.print(table)
    console.print("Machine noise:", *noise.lines(), sep="\n  ", highlight=False)
    console.print(f"Servers: {SETTINGS}", highlight=False)
    console.print(", ".join(_setting()), highlight=False)


def _cells(figure: Figure) -> list[str]:
    ratio = figure.ratio
    return [
        figure.what,
        f"{_number(median(figure.ours))} {figure.unit}",
        figure.against,
        "" if figure.theirs is None else _number(median(figure.theirs)),
        "" if ratio is None else f"{ratio:.2f}",
        _range(figure.ratios or figure.ours),
        _bar(figure),
        {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[figure.met],
    ]


def _range(values: list[float]) -> str:
    return f"{_number(min(values))} – {_number(max(values))}"  # noqa: RUF001 (a range)


def _bar(figure: Figure) -> str:
    if figure.limit is not None:
        return f"≤ {figure.limit:g} {figure.unit}"
    if figure.at_least is not None:
        return f"ratio ≥ {figure.at_least:g}"
    return "" if figure.at_most is None else f"ratio ≤ {figure.at_most:g}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def _setting() -> list[str]:
    return [
        f"Python {platform.python_version()}",
        f"SQLite {sqlite3.sqlite_version}",
        *(f"{package} {version(package)}" for package in _PACKAGES if _is_installed(package)),
        f"{os.cpu_count()} CPUs",
        f"{platform.system()} {platform.machine()}",
    ]


def _is_installed(package: str) -> bool:
    """Whether it is there: peers come with a dependency group of their own."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def write(file: Path, figures: Sequence[Figure], noise: Noise) -> None:
    """Everything measured, round by round, as JSON."""
    lines = [
        {
            "what": figure.what,
            "unit": figure.unit,
            "ours": figure.ours,
            "against": figure.against,
            "theirs": figure.theirs,
            "ratio": figure.ratio,
            "bar": _bar(figure),
            "met": figure.met,
        }
        for figure in figures
    ]
    document = {"setting": _setting(), "noise": noise.rates, "figures": lines}
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
