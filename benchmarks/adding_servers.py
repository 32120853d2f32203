"""Adding to servers: many per call, and one per call from one caller and a hundred."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.engines import Engine, Rival, engines_of
from benchmarks.harness import Figure, Options, alternate, measure

__all__ = ["kinesis", "mongodb", "postgres", "redis"]

_MANY, _ONE = 50_000, 1_000
_UNIT = "tasks/s"


def redis(options: Options) -> list[Figure]:
    """The rates of adding to Redis."""
    return _all("redis", options)


def postgres(options: Options) -> list[Figure]:
    """The rates of adding to PostgreSQL."""
    return _all("postgresql", options)


def mongodb(options: Options) -> list[Figure]:
    """The rate of adding to MongoDB, many per call."""
    return _beside_raw("mongodb", 0.4, options)


def kinesis(options: Options) -> list[Figure]:
    """The rate of adding to Kinesis, many per call."""
    return _beside_raw("kinesis", 0.5, options)


def _beside_raw(family: str, bar: float, options: Options) -> list[Figure]:
    with engines_of(family) as [engine]:
        mine = "adding:enqueued_many" if engine.ours == "ours" else f"{engine.ours}:add"
        found = alternate(
            options.rounds,
            {
                "ours": _ours(engine, mine, tasks=engine.drained),
                "raw": _ours(engine, f"{engine.raw}:add", tasks=engine.drained),
            },
        )
        return [
            Figure(
                what=f"{engine.name}: enqueue_many, 1,000 per call",
                unit=_UNIT,
                ours=found["ours"],
                against=f"raw, {engine.raw}",
                theirs=found["raw"],
                at_least=bar,
            )
        ]


def _all(family: str, options: Options) -> list[Figure]:
    with engines_of(family) as engines:
        return [figure for engine in engines for figure in _figures(engine, options)]


def _figures(engine: Engine, options: Options) -> list[Figure]:
    bulk = [rival for rival in engine.rivals if rival.bulk]
    single = [rival for rival in engine.rivals if rival.asyncio]
    found = alternate(
        options.rounds,
        {
            "tasks": _ours(engine, "adding:tasks_added", tasks=_MANY),
            "raw": _ours(engine, f"{engine.raw}:add", tasks=_MANY),
            "calls": _ours(engine, "adding:enqueued_many", tasks=_MANY),
            "hundred": _ours(engine, "adding:callers", callers=100, each=100),
            "one": _ours(engine, "adding:callers", callers=1, each=_ONE),
            **{f"{rival.name}, many": _theirs(engine, rival, "add", _MANY) for rival in bulk},
            **{
                f"{rival.name}, one": _theirs(engine, rival, "one_by_one", _ONE) for rival in single
            },
        },
    )
    return [
        *_many(engine, bulk, found),
        *_one(engine, single, found),
        Figure(
            what=f"{engine.name}: enqueue, 100 callers",
            unit=_UNIT,
            ours=found["hundred"],
            against="one caller",
            theirs=found["one"],
            at_least=5.0,
        ),
    ]


def _many(engine: Engine, bulk: list[Rival], found: dict[str, list[float]]) -> list[Figure]:
    bars: dict[str, tuple[str, float]] = {"raw": (f"raw, {engine.raw}", 0.5)}
    bars |= {f"{rival.name}, many": (rival.name, 2.0) for rival in bulk}
    return [
        Figure(
            what=f"{engine.name}: {call}, 1,000 per call",
            unit=_UNIT,
            ours=found[mine],
            against=against,
            theirs=found[name],
            at_least=bar,
        )
        for mine, call in (("tasks", "add_tasks"), ("calls", "enqueue_many"))
        for name, (against, bar) in bars.items()
    ]


def _one(engine: Engine, single: list[Rival], found: dict[str, list[float]]) -> list[Figure]:
    return [
        Figure(
            what=f"{engine.name}: enqueue, one caller",
            unit=_UNIT,
            ours=found["one"],
            against=rival.name,
            theirs=found[f"{rival.name}, one"],
            at_least=1.0,
        )
        for rival in single
    ]


def _ours(engine: Engine, function: str, **arguments: int) -> Callable[[], float]:
    def measured() -> float:
        with engine.empty() as url:
            return measure(function, url=url, **arguments)["rate"]

    return measured


def _theirs(engine: Engine, rival: Rival, function: str, tasks: int) -> Callable[[], float]:
    def measured() -> float:
        with engine.empty() as url:
            return rival.measure(function, url, tasks=tasks)["rate"]

    return measured
