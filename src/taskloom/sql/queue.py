"""SqlQueue: the storage's rows as a queue."""

from __future__ import annotations

from typing import Self

from taskloom.clock import SYSTEM_CLOCK, Clock
from taskloom.sql.storage import SqlStorage
from taskloom.storage_queue import StorageQueue

__all__ = ["SqlQueue"]


class SqlQueue(StorageQueue[SqlStorage]):
    """Claims straight from its storage: adding or settling there is putting or acknowledging here.

    A claim is one atomic UPDATE, and so are `extend`, `ack` and `release`.

        storage = SqlStorage.from_url("sqlite:///tasks.db")
        async with SqlQueue(storage) as queue:
            await queue.put("mail", [Task(type="send", queue_id="mail", payload={})])
            [delivery] = await queue.claim("mail", 10, lease=60)
    """

    name = "sql"

    def __init__(self, storage: SqlStorage) -> None:
        super().__init__(storage, storage.database)

    @classmethod
    def from_url(cls, url: str, *, clock: Clock = SYSTEM_CLOCK) -> Self:
        """A queue that makes its own storage: see `SqlDatabase.from_url`."""
        return cls(SqlStorage.from_url(url, clock=clock))
