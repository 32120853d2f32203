"""How steady the machine is: two reference loops, before and after everything else."""

from __future__ import annotations

from statistics import median

from benchmarks.harness import database, measure

__all__ = ["Noise"]

_TIMES = 3


class Noise:
    """Rates of the bare loop and of the raw SQLite loop, looked at whenever `look` is called."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {"bare loop": [], "raw SQLite loop": []}

    def look(self) -> None:
        """Run each loop a few times."""
        for _ in range(_TIMES):
            self.rates["bare loop"].append(measure("bare_loops:lane", tasks=200_000)["rate"])
            self.rates["raw SQLite loop"].append(_raw())

    def lines(self) -> list[str]:
        """What a reader should know before trusting a difference."""
        return [_line(name, rates) for name, rates in self.rates.items()]


def _line(name: str, rates: list[float]) -> str:
    before, after = median(rates[:_TIMES]), median(rates[-_TIMES:])
    spread = (max(rates) - min(rates)) / median(rates)
    return (
        f"{name}: {before:,.0f}/s at the start, {after:,.0f}/s at the end "
        f"({after / before - 1:+.0%}), spread {spread:.0%} of the median"
    )


def _raw() -> float:
    with database() as path:
        measure("raw_sqlite:fill", path=path, tasks=80_000)
        return measure("raw_sqlite:drain", path=path, tasks=80_000)["rate"]
