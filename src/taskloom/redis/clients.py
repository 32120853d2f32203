"""Clients of redis-py from a URL: one server, Sentinel, Cluster."""

from __future__ import annotations

from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from taskloom.errors import ConfigurationError

__all__ = ["Client", "client_from_url", "close_client", "split_options"]

Client: TypeAlias = "Redis | RedisCluster"

CONNECT_LIMIT = 3.0
_OURS = frozenset({"prefix", "remember"})
"""Options of a URL that redis-py does not know."""


def client_from_url(url: str) -> Client:
    """`redis://`, `rediss://`, `unix://`, `redis+cluster://`, `redis+sentinel://`; no I/O.

    Sentinel takes several addresses and the name of its primary:
    `redis+sentinel://:password@one:26379,two:26379/primary/0`. `valkey` says the same as `redis`.
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower().replace("valkey", "redis")
    if not separator:
        raise ConfigurationError("a redis url starts with redis://")
    if scheme.endswith("+cluster"):
        plain = scheme.removesuffix("+cluster")
        return RedisCluster.from_url(f"{plain}://{rest}", **_limits(cluster=True))
    if scheme.endswith("+sentinel"):
        return _sentinel(rest, tls=scheme.startswith("rediss"))
    return Redis.from_url(f"{scheme}://{rest}", **_limits())


async def close_client(client: Client) -> None:
    """Close its connections, those to sentinels too: redis-py leaves these open."""
    await client.aclose()
    pool = client.connection_pool if isinstance(client, Redis) else None
    if isinstance(pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def split_options(url: str) -> tuple[str, dict[str, str]]:
    """`url` without the options that are not redis-py's, and those."""
    place, _, query = url.partition("?")
    options = dict(parse_qsl(query))
    ours = {name: value for name, value in options.items() if name in _OURS}
    theirs = {name: value for name, value in options.items() if name not in _OURS}
    return f"{place}?{urlencode(theirs)}" if theirs else place, ours


def _limits(*, cluster: bool = False) -> dict[str, Any]:
    # redis-py would repeat what failed by itself. But a claim whose answer was lost has taken
    # tasks, and an acknowledgement said twice is "no longer ours": only the caller knows.
    limits = {
        "socket_timeout": None,  # `Reach` has a limit that costs no asyncio task for each call
        "socket_connect_timeout": CONNECT_LIMIT,
        "decode_responses": False,
        "protocol": 2,
    }
    # In a cluster some retries are how it is found out where a slot has moved to.
    return limits if cluster else limits | {"retry": Retry(NoBackoff(), 0)}


def _sentinel(rest: str, *, tls: bool) -> Redis:
    account, _, places = rest.rpartition("@")
    hosts, _, path = places.partition("/")
    service, _, db = path.partition("?")[0].partition("/")
    if not service:
        raise ConfigurationError(
            "a sentinel url names its primary: redis+sentinel://host:26379,host:26379/mymaster"
        )
    user, _, password = account.partition(":")
    options = _limits() | {
        "username": unquote(user) or None,
        "password": unquote(password) or None,
        "db": int(db or 0),
        "ssl": tls,
    }
    sentinels = [_address(host) for host in hosts.split(",")]
    # redis-py has not annotated its constructor.
    sentinel = Sentinel(sentinels, sentinel_kwargs=_limits())  # type: ignore[no-untyped-call]
    client: Redis = sentinel.master_for(service, **options)
    return client


def _address(host: str) -> tuple[str, int]:
    parts = urlsplit(f"//{host}")
    return parts.hostname or "localhost", parts.port or 26379
