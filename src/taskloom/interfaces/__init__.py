"""What an engine is made of. Write your own against these; `taskloom.testing` checks it."""

from taskloom.interfaces.adaptive_strategy import AdaptiveSnapshot, AdaptiveStrategy, BatchResult
from taskloom.interfaces.cache import Cache
from taskloom.interfaces.entity_projections import EntityProjections
from taskloom.interfaces.flow_barrier import (
    BarrierState,
    FlowBarrier,
    FlowNews,
    FlowRecord,
    FlowSettled,
)
from taskloom.interfaces.message_queue import MessageQueue, QueueFeatures
from taskloom.interfaces.shard_locks import ShardLocks
from taskloom.interfaces.task_storage import (
    CleanupStats,
    DeadRecord,
    TaskArchive,
    TaskStorage,
    WorkerRecord,
)
from taskloom.lifecycle import QueueLifecycleConfig
from taskloom.outcomes import Delivery, Ending, Settlement, UnreadableRecord
from taskloom.queue_events import QueueLifecycleProvider

__all__ = [
    "AdaptiveSnapshot",
    "AdaptiveStrategy",
    "BarrierState",
    "BatchResult",
    "Cache",
    "CleanupStats",
    "DeadRecord",
    "Delivery",
    "Ending",
    "EntityProjections",
    "FlowBarrier",
    "FlowNews",
    "FlowRecord",
    "FlowSettled",
    "MessageQueue",
    "QueueFeatures",
    "QueueLifecycleConfig",
    "QueueLifecycleProvider",
    "Settlement",
    "ShardLocks",
    "TaskArchive",
    "TaskStorage",
    "UnreadableRecord",
    "WorkerRecord",
]
