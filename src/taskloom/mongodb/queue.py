"""MongoDBQueue: the storage's tasks as a queue."""

from __future__ import annotations

from typing import Self

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.mongodb.storage import MongoDBStorage
from taskloom.storage_queue import StorageQueue

__all__ = ["MongoDBQueue"]


class MongoDBQueue(StorageQueue[MongoDBStorage]):
    """Claims straight from its storage: adding or settling there is putting or acknowledging here.

    A claim finds what is due, marks it as ours with one update, and reads it by the mark.

        storage = MongoDBStorage.from_url("mongodb://localhost:27017/tasks")
        async with MongoDBQueue(storage) as queue:
            await queue.put("mail", [Task(type="send", queue_id="mail", payload={})])
            [delivery] = await queue.claim("mail", 10, lease=60)
    """

    name = "mongodb"

    def __init__(self, storage: MongoDBStorage) -> None:
        super().__init__(storage, storage.database)

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """A queue that makes its own storage: see `MongoDBDatabase.from_url`."""
        return cls(MongoDBStorage.from_url(url, clock=clock))
