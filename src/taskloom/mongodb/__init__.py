"""Engines on MongoDB 4.4 or later."""

try:
    import pymongo as _driver  # noqa: F401
except ImportError as error:
    from taskloom.errors import MissingExtraError

    raise MissingExtraError("mongodb", "pymongo") from error

from taskloom.mongodb.cache import MongoDBCache
from taskloom.mongodb.database import MongoDBDatabase
from taskloom.mongodb.entity_projections import MongoDBProjections
from taskloom.mongodb.flow_barrier import MongoDBFlowBarrier
from taskloom.mongodb.queue import MongoDBQueue
from taskloom.mongodb.shard_locks import MongoRedisShardLocks
from taskloom.mongodb.storage import MongoDBStorage

__all__ = [
    "MongoDBCache",
    "MongoDBDatabase",
    "MongoDBFlowBarrier",
    "MongoDBProjections",
    "MongoDBQueue",
    "MongoDBStorage",
    "MongoRedisShardLocks",
]
