"""Draining servers: beside peers where there are any, and beside the engine itself."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.engines import Engine, Rival, engines_of
from benchmarks.harness import Figure, Options, alternate, measure

__all__ = ["kinesis", "mongodb", "postgres", "redis"]


def redis(options: Options) -> list[Figure]:
    """The drain rates on Redis."""
    return _all("redis", options)


def postgres(options: Options) -> list[Figure]:
    """The drain rates on PostgreSQL."""
    return _all("postgresql", options)


def mongodb(options: Options) -> list[Figure]:
    """The drain rate on MongoDB."""
    return _all("mongodb", options)


def kinesis(options: Options) -> list[Figure]:
    """The drain rate on Kinesis."""
    return _all("kinesis", options)


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
        measure(f"{engine.ours}:fill", url=url, tasks=engine.drained)
        engine.settle(url)
        return measure(f"{engine.ours}:drain", url=url, tasks=engine.drained)["rate"]


def _raw(engine: Engine) -> float:
    with engine.empty() as url:
        measure(f"{engine.raw}:fill", url=url, tasks=engine.raw_drained)
        engine.settle(url)
        return measure(f"{engine.raw}:drain", url=url, tasks=engine.raw_drained)["rate"]


def _way(engine: Engine, rival: Rival) -> Callable[[], float]:
    def measured() -> float:
        with engine.empty() as url:
            rival.measure("fill", url, tasks=rival.drained)
            engine.settle(url)
            return rival.measure("drain", url, tasks=rival.drained)["rate"]

    return measured
