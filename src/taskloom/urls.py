"""From a URL to the parts it names: a queue, a storage and the rest of one engine."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from taskloom.clock import Clock
from taskloom.errors import ConfigurationError
from taskloom.interfaces import (
    Cache,
    EntityProjections,
    FlowBarrier,
    MessageQueue,
    TaskStorage,
)
from taskloom.redacting import redacted

__all__ = ["Parts", "parts_from_url", "redacted"]


class Parts(NamedTuple):
    """What a handler stands on. Nothing is open yet."""

    queue: MessageQueue
    storage: TaskStorage
    cache: Cache
    flow_barrier: FlowBarrier | None = None
    entity_projections: EntityProjections | None = None


def parts_from_url(url: str, clock: Clock) -> Parts:
    """The parts of the engine that `url` names; no I/O, and only that engine is imported.

    `memory://`, `sqlite:///file`, `sqlite:////absolute/file`, `sqlite://` (in memory),
    `postgresql://user:password@host/database`, `redis://host:6379/0` (and `rediss`,
    `redis+cluster`, `redis+sentinel`, the same with `valkey`), `mongodb://host/database` (and
    `mongodb+srv`). Raises `ConfigurationError`, which never shows the URL: it may hold a password;
    `MissingExtraError` when a driver is not installed.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigurationError(
            "the url has no scheme; write for example sqlite:///taskloom.db or memory://"
        )
    make = _ENGINES.get(scheme.lower().removesuffix("+asyncpg"))
    if make is not None:
        return make(url, rest, clock)
    engine = _PLANNED.get(re.split(r"[+]", scheme.lower())[0])
    if engine is not None:
        raise ConfigurationError(f"this version has no engine for {engine} yet; {_offer()}")
    raise ConfigurationError(f"no engine is called {_shown(scheme)}; {_offer()}")


def _memory(url: str, rest: str, clock: Clock) -> Parts:
    if rest:
        raise ConfigurationError("memory:// takes nothing after it: each Loom has its own memory")
    from taskloom.memory import (
        InMemoryCache,
        InMemoryFlowBarrier,
        InMemoryProjections,
        InMemoryQueue,
        InMemoryStorage,
    )

    return Parts(
        InMemoryQueue(clock=clock),
        InMemoryStorage(clock=clock),
        InMemoryCache(clock=clock),
        InMemoryFlowBarrier(clock=clock),
        InMemoryProjections(),
    )


def _sqlite(url: str, rest: str, clock: Clock) -> Parts:
    if rest and not rest.startswith(("/", "?")):
        raise ConfigurationError(
            "a sqlite url has three slashes before a relative path and four before an absolute "
            "one: sqlite:///taskloom.db, sqlite:////var/lib/taskloom.db"
        )
    return _sql(url, rest, clock)


def _sql(url: str, rest: str, clock: Clock) -> Parts:
    from taskloom.sql import (
        SqlCache,
        SqlDatabase,
        SqlFlowBarrier,
        SqlProjections,
        SqlQueue,
        SqlStorage,
    )

    database = SqlDatabase.from_url(url, clock=clock)
    storage = SqlStorage(database)
    return Parts(
        SqlQueue(storage),
        storage,
        SqlCache(database),
        SqlFlowBarrier(storage),
        SqlProjections(storage),
    )


def _redis(url: str, rest: str, clock: Clock) -> Parts:
    from taskloom.redis import (
        RedisCache,
        RedisFlowBarrier,
        RedisQueue,
        RedisServer,
        RedisStorage,
    )

    server = RedisServer.from_url(url, clock=clock)
    return Parts(
        RedisQueue(server), RedisStorage(server), RedisCache(server), RedisFlowBarrier(server)
    )


def _mongodb(url: str, rest: str, clock: Clock) -> Parts:
    from taskloom.mongodb import (
        MongoDBCache,
        MongoDBDatabase,
        MongoDBFlowBarrier,
        MongoDBProjections,
        MongoDBQueue,
        MongoDBStorage,
    )

    database = MongoDBDatabase.from_url(url, clock=clock)
    storage = MongoDBStorage(database)
    return Parts(
        MongoDBQueue(storage),
        storage,
        MongoDBCache(database),
        MongoDBFlowBarrier(storage),
        MongoDBProjections(storage),
    )


_ENGINES: dict[str, Callable[[str, str, Clock], Parts]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "postgresql": _sql,
    "postgres": _sql,
    "mongodb": _mongodb,
    "mongodb+srv": _mongodb,
}
_ENGINES |= {
    f"{name}{tls}{kind}": _redis
    for name in ("redis", "valkey")
    for tls in ("", "s")
    for kind in ("", "+cluster", "+sentinel")
}

_PLANNED = {
    "mysql": "MySQL",
    "mariadb": "MariaDB",
}


def _offer() -> str:
    return "use " + " or ".join(
        (
            "sqlite:///taskloom.db",
            "postgresql://host/database",
            "redis://host:6379/0",
            "mongodb://host/database",
            "memory://",
        )
    )


def _shown(scheme: str) -> str:
    # What stands before "://" may be anything when the url is mistyped, a password included.
    return f"{scheme!r}" if re.fullmatch(r"[A-Za-z][A-Za-z0-9.+-]{0,30}", scheme) else "that"
