"""Draining Redis and PostgreSQL: beside peers, and beside the engine itself."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.engines import Engine, Rival, engines_of
from benchmarks.harness import Figure, Options, alternate, measure

__all__ = ["postgres", "redis"]

_OURS, _RAW = 40_000, 80_000


def redis(options: Options) -> list[Figure]:
    """The drain rates on Redis."""
    return _all("redis", options)


def postgres(options: Options) -> list[Figure]:
    """The drain rates on PostgreSQL."""
    return _all("postgresql", options)


def _all(family: str, options: Options) -> list[Figure]:
    with engines_of(family) as engines:
        return [figure for engine in engines for figure in _figures(engine, options)]


def _figures(engine: Engine, options: Options) -> list[Figure]:
    ways: dict[str, Callable[[], float]] = {
        "ours": lambda: _ours(engine),
        "raw": lambda: _raw(engine),
        **{rival.name: _way(engine, rival) for rival in engine.rivals},
    }
    found = alternate(options.rounds, ways)
    compared = [(rival.name, rival.name, rival.drain_bar) for rival in engine.rivals]
    compared.append(("raw", engine.raw_name, engine.raw_bar))
    return [
        Figure(
            what=f"{engine.name}: drain",
            unit="tasks/s",
            ours=found["ours"],
            against=against,
            theirs=found[name],
            at_least=bar,
        )
        for name, against, bar in compared
    ]


def _ours(engine: Engine) -> float:
    with engine.empty() as url:
        measure("ours:fill", url=url, tasks=_OURS)
        engine.settle(url)
        return measure("ours:drain", url=url, tasks=_OURS)["rate"]


def _raw(engine: Engine) -> float:
    with engine.empty() as url:
        measure(f"{engine.raw}:fill", url=url, tasks=_RAW)
        engine.settle(url)
        return measure(f"{engine.raw}:drain", url=url, tasks=_RAW)["rate"]


def _way(engine: Engine, rival: Rival) -> Callable[[], float]:
    def measured() -> float:
        with engine.empty() as url:
            rival.measure("fill", url, tasks=rival.drained)
            engine.settle(url)
            return rival.measure("drain", url, tasks=rival.drained)["rate"]

    return measured
