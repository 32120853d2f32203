"""The servers that are measured, and who else queues on them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from benchmarks.apart import python_apart
from benchmarks.harness import Result, measure
from benchmarks.servers import (
    NEW_REDIS,
    database_on,
    kinesis,
    mongodb,
    new_mongodb,
    new_stream,
    postgres,
    redis,
    settle_down,
)

__all__ = ["Engine", "Rival", "engines_of", "on_both"]


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A library to be compared with."""

    name: str
    who: str
    """`module:class` of its adapter."""
    drain_bar: float
    """How many times its drain rate ours is to be."""
    asyncio: bool = True
    bulk: bool = False
    """Whether it has a call that adds many."""
    apart: bool = False
    """Whether it runs in the environment of `apart.py`."""
    drained: int = 4_000
    """How many tasks are enough to see its rate."""

    def measure(self, function: str, url: str, **arguments: object) -> Result:
        """One function of `peer.py`, for this library."""
        python = python_apart() if self.apart else sys.executable
        return measure(f"peer:{function}", python=python, who=self.who, url=url, **arguments)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A server, with what it is compared by."""

    name: str
    empty: Callable[[], AbstractContextManager[str]]
    """The URL of a database without anything in it."""
    settle: Callable[[str], None]
    """Brings a database that was just filled to rest."""
    raw: str
    """The module with the raw loops."""
    raw_name: str
    raw_bar: float
    rivals: tuple[Rival, ...] = ()
    ours: str = "ours"
    """The module with `fill` and `drain` of this library."""
    drained: int = 40_000
    raw_drained: int = 80_000
    """How many tasks are enough to see the rate of ours, and of the raw loop."""


_ON_OLD_REDIS = (
    Rival(name="taskiq-redis stream", who="redis_peers.taskiq_redis:Stream", drain_bar=8.0),
    Rival(name="taskiq-redis list", who="redis_peers.taskiq_redis:List", drain_bar=8.0),
    Rival(
        name="dramatiq",
        who="redis_peers.dramatiq_redis:Dramatiq",
        drain_bar=8.0,
        asyncio=False,
    ),
    Rival(name="huey", who="redis_peers.huey_redis:Huey", drain_bar=8.0, asyncio=False),
    Rival(name="arq", who="redis_peers.arq_redis:Arq", drain_bar=8.0, apart=True),
    Rival(name="saq", who="redis_peers.saq_redis:Saq", drain_bar=8.0, apart=True),
)
_ON_NEW_REDIS = (
    Rival(name="streaq", who="redis_peers.streaq_redis:Streaq", drain_bar=8.0, bulk=True),
)
_ON_POSTGRES = (
    Rival(
        name="pgqueuer",
        who="postgres_peers.pgqueuer_asyncpg:PgQueuerPeer",
        drain_bar=3.0,
        bulk=True,
        drained=10_000,
    ),
    Rival(
        name="procrastinate",
        who="postgres_peers.procrastinate_psycopg:Procrastinate",
        drain_bar=30.0,
        bulk=True,
        drained=1_500,
    ),
)


@contextmanager
def engines_of(family: str) -> Iterator[list[Engine]]:
    """The engines of `redis`, `postgresql`, `mongodb` or `kinesis`, running.

    Redis comes in two versions: streaq needs 7 or later, so ours is measured there as well.
    """
    if family == "redis":
        engines = [_redis("Redis 6.2", redis, _ON_OLD_REDIS)]
        if find_spec(NEW_REDIS) is not None:
            engines.append(_redis("Redis 8.2", partial(redis, NEW_REDIS), _ON_NEW_REDIS))
        else:
            print(f"without streaq: {NEW_REDIS} has no wheel for here", file=sys.stderr)
        yield engines
        return
    if family in _SLOW:
        with _SLOW[family]() as engine:
            yield [engine]
        return
    with postgres() as server:
        yield [
            Engine(
                name="PostgreSQL",
                empty=partial(database_on, server),
                settle=settle_down,
                raw="raw_postgres",
                raw_name="raw SKIP LOCKED, unnest",
                raw_bar=0.40,
                rivals=_ON_POSTGRES,
            )
        ]


@contextmanager
def on_both() -> Iterator[list[Engine]]:
    """PostgreSQL and the Redis that everyone has."""
    with engines_of("postgresql") as postgres_, engines_of("redis") as redis_:
        yield [*postgres_, redis_[0]]


@contextmanager
def _mongodb() -> Iterator[Engine]:
    with mongodb() as server:
        yield Engine(
            name="MongoDB",
            empty=partial(new_mongodb, server),
            settle=_nothing,
            raw="raw_mongodb",
            raw_name="raw find, update_many by mark",
            raw_bar=0.40,
            drained=1_000,
            raw_drained=1_000,
        )


@contextmanager
def _kinesis() -> Iterator[Engine]:
    with kinesis() as server:
        yield Engine(
            name="Kinesis (moto)",
            empty=partial(new_stream, server),
            settle=_nothing,
            raw="raw_kinesis",
            raw_name="raw GetRecords",
            raw_bar=0.50,
            ours="ours_on_kinesis",
            drained=4_000,
            raw_drained=4_000,
        )


_SLOW = {"mongodb": _mongodb, "kinesis": _kinesis}


def _redis(
    name: str, empty: Callable[[], AbstractContextManager[str]], rivals: tuple[Rival, ...]
) -> Engine:
    return Engine(
        name=name,
        empty=empty,
        settle=_nothing,
        raw="raw_redis",
        raw_name="raw XREADGROUP, XACK, XDEL",
        raw_bar=0.35,
        rivals=rivals,
    )


def _nothing(url: str) -> None:
    """What these have been given they have done."""
