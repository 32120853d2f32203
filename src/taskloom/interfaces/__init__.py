"""What an engine is made of. Write your own against these; `taskloom.testing` checks it."""

from taskloom.interfaces.cache import Cache
from taskloom.interfaces.message_queue import MessageQueue, QueueFeatures
from taskloom.interfaces.task_storage import (
    CleanupStats,
    DeadRecord,
    TaskArchive,
    TaskStorage,
    WorkerRecord,
)
from taskloom.outcomes import Delivery, Ending, Settlement, UnreadableRecord

__all__ = [
    "Cache",
    "CleanupStats",
    "DeadRecord",
    "Delivery",
    "Ending",
    "MessageQueue",
    "QueueFeatures",
    "Settlement",
    "TaskArchive",
    "TaskStorage",
    "UnreadableRecord",
    "WorkerRecord",
]
