"""Draining an SQLite file: against huey, and against the engine itself."""

from __future__ import annotations

from benchmarks.harness import Figure, Options, alternate, database, measure

__all__ = ["figures"]


def figures(options: Options) -> list[Figure]:
    """The drain rate beside huey's and that of a raw loop."""
    found = alternate(
        options.rounds,
        {
            "ours": lambda: _ours(40_000),
            "huey": lambda: _rate("huey_peer", 4_000),
            "default": lambda: _rate("huey_peer", 4_000, as_it_comes=True),
            "raw": lambda: _rate("raw_sqlite", 80_000),
        },
    )
    what, unit = "SQLite: drain", "tasks/s"
    return [
        Figure(
            what=what,
            unit=unit,
            ours=found["ours"],
            against="huey, synchronous NORMAL",
            theirs=found["huey"],
            at_least=10.0,
        ),
        Figure(
            what=what,
            unit=unit,
            ours=found["ours"],
            against="huey as it comes (FULL)",
            theirs=found["default"],
        ),
        Figure(
            what=what,
            unit=unit,
            ours=found["ours"],
            against="raw sqlite3 loop",
            theirs=found["raw"],
            at_least=0.25,
        ),
    ]


def _ours(tasks: int) -> float:
    with database() as path:
        url = f"sqlite:///{path}"
        measure("ours:fill", url=url, tasks=tasks)
        return measure("ours:drain", url=url, tasks=tasks)["rate"]


def _rate(who: str, tasks: int, **options: bool) -> float:
    with database() as path:
        measure(f"{who}:fill", path=path, tasks=tasks)
        return measure(f"{who}:drain", path=path, tasks=tasks, **options)["rate"]
