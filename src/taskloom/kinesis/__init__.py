"""Queues on Amazon Kinesis Data Streams, and shard locks in files."""

try:
    import aiobotocore as _driver  # noqa: F401
except ImportError as error:
    from taskloom.errors import MissingExtraError

    raise MissingExtraError("kinesis", "aiobotocore") from error

from taskloom.interfaces.adaptive_strategy import AdaptiveSnapshot, AdaptiveStrategy, BatchResult
from taskloom.kinesis.aimd import AIMDStrategy
from taskloom.kinesis.file_locks import FileShardLocks
from taskloom.kinesis.queue import KinesisQueue

__all__ = [
    "AIMDStrategy",
    "AdaptiveSnapshot",
    "AdaptiveStrategy",
    "BatchResult",
    "FileShardLocks",
    "KinesisQueue",
]
