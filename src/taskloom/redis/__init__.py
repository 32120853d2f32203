"""Engines on Redis 6.2 or later, or Valkey."""

try:
    # Only to say which extra is missing: the modules below import what they use of it.
    import redis as _driver  # noqa: F401
except ImportError as error:
    from taskloom.errors import MissingExtraError

    raise MissingExtraError("redis", "redis-py") from error

from taskloom.redis.cache import RedisCache
from taskloom.redis.flow_barrier import RedisFlowBarrier
from taskloom.redis.queue import RedisQueue
from taskloom.redis.server import RedisServer
from taskloom.redis.shard_locks import RedisShardLocks
from taskloom.redis.storage import RedisStorage

__all__ = [
    "RedisCache",
    "RedisFlowBarrier",
    "RedisQueue",
    "RedisServer",
    "RedisShardLocks",
    "RedisStorage",
]
