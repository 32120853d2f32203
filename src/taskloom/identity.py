"""Ids: new ones by time, and those of children by where they come from.

A task made while another one runs gets an id derived from the running task and from what the new
task is. When a worker dies and the running task is run again, it makes the same ids again, and the
engines recognise them: at least once never becomes twice.
"""

from __future__ import annotations

from typing import Any

import uuid_utils

from taskloom.codec import canonical_json

__all__ = ["DerivedIds", "FreshIds", "derive_id", "new_id"]

# The namespace of every derived id (RFC 9562, version 5). Changing it changes every child's id.
_NAMESPACE = uuid_utils.UUID("6f1b2a52-98e5-5cf1-8f0e-3a1f6d1f7c55")


def new_id() -> str:
    """A new UUIDv7: sorts by the time it was made."""
    return str(uuid_utils.uuid7())


def derive_id(*parts: str) -> str:
    """The UUIDv5 of `parts`: the same parts, the same id, on every machine."""
    return str(uuid_utils.uuid5(_NAMESPACE, "\x1f".join(parts)))


class DerivedIds:
    """Ids of the tasks that one attempt of one task makes.

    `origin` names the attempt. Equal children are numbered in the order they are made, so that the
    order among different children does not matter.
    """

    __slots__ = ("_made", "_origin")

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._made: dict[tuple[str, str, bytes], int] = {}

    def next_id(self, type: str, queue_id: str, payload: Any) -> str:
        content = canonical_json(payload)
        key = (type, queue_id, content)
        number = self._made.get(key, 0)
        self._made[key] = number + 1
        return derive_id(self._origin, type, queue_id, content.decode(), str(number))


class FreshIds:
    """Ids of the tasks made inside a call on many tasks, where no single one is the parent.

    It remembers what it gave out, so that a task that later names its parent can get a derived id,
    while an id that the user chose stays.
    """

    __slots__ = ("given",)

    def __init__(self) -> None:
        self.given: set[str] = set()

    def next_id(self, type: str, queue_id: str, payload: Any) -> str:
        id = new_id()
        self.given.add(id)
        return id
