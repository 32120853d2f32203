"""How soon a task starts on an idle worker on Redis and PostgreSQL, in the same process."""

from __future__ import annotations

from benchmarks.engines import Engine, engines_of
from benchmarks.harness import Figure, Options, Result, measure
from benchmarks.latency import gaps_for

__all__ = ["postgres", "redis"]

_OURS, _THEIRS = 500, 100
"""Samples per round. Some peers' waits take long."""


def redis(options: Options) -> list[Figure]:
    """p50 and p99 on Redis."""
    return _all("redis", options, {"p50": 1.2, "p99": 3.0})


def postgres(options: Options) -> list[Figure]:
    """p50 and p99 on PostgreSQL."""
    return _all("postgresql", options, {"p50": 3.0, "p99": 6.0})


def _all(family: str, options: Options, limits: dict[str, float]) -> list[Figure]:
    with engines_of(family) as engines:
        return [figure for engine in engines for figure in _figures(engine, options, limits)]


def _figures(engine: Engine, options: Options, limits: dict[str, float]) -> list[Figure]:
    mine: list[Result] = []
    theirs: dict[str, list[Result]] = {rival.name: [] for rival in engine.rivals}
    for round in range(options.rounds):
        gaps = gaps_for(_OURS, seed=round)
        with engine.empty() as url:
            mine.append(measure("latency:ours", url=url, gaps=gaps))
        for rival in engine.rivals:
            with engine.empty() as url:
                theirs[rival.name].append(rival.measure("latency", url, gaps=gaps[:_THEIRS]))
    return [
        figure
        for share, limit in limits.items()
        for figure in _lines(engine, share, limit, mine, theirs)
    ]


def _lines(
    engine: Engine, share: str, limit: float, mine: list[Result], theirs: dict[str, list[Result]]
) -> list[Figure]:
    what, ours = f"{engine.name}: enqueue to first line, {share}", [one[share] for one in mine]
    return [
        Figure(what=what, unit="ms", ours=ours, limit=limit),
        *(
            Figure(
                what=what,
                unit="ms",
                ours=ours,
                against=name,
                theirs=[one[share] for one in found],
                at_most=1.0,
            )
            for name, found in theirs.items()
        ),
    ]
