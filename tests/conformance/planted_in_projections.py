"""Broken entity projections."""

from __future__ import annotations

import asyncio

from msgspec import UNSET
from msgspec.structs import replace
from planting import fault

from taskloom.memory import InMemoryProjections
from taskloom.memory import projections as engine

UPSERT = "upsert_projections"


@fault("projections", "a terminal status is overwritten", engine, "may_become")
def _(original, old, new):
    return original(old, new) or (old in ("executed", "failed") and old != new)


@fault("projections", "an end said again is overwritten", engine, "may_become")
def _(original, old, new):
    return original(old, new) or old == new


@fault("projections", "a failed task may still execute", engine, "may_become")
def _(original, old, new):
    return original(old, new) or (old, new) == ("failed", "executed")


@fault("projections", "what runs is scheduled again", engine, "may_become")
def _(original, old, new):
    return original(old, new) or (old, new) == ("processing", "scheduled")


@fault("projections", "what is scheduled cannot end unless it ran", engine, "may_become")
def _(original, old, new):
    return original(old, new) and not (old == "scheduled" and new in ("executed", "failed"))


@fault("projections", "the first row is all there ever is", engine, "may_become")
def _(original, old, new):
    return False


@fault("projections", "a later row without payload erases it", engine, "_merged")
def _(original, old, new):
    return replace(original(old, new), payload=new.payload)


@fault("projections", "a payload that comes later is lost", engine, "_merged")
def _(original, old, new):
    return replace(original(old, new), payload=old.payload)


@fault("projections", "a payload of None is taken for none", engine, "_merged")
def _(original, old, new):
    return replace(original(old, new), payload=old.payload or new.payload)


@fault("projections", "created_at is that of the last row", engine, "_merged")
def _(original, old, new):
    return replace(original(old, new), created_at=new.created_at)


@fault("projections", "updated_at is that of the first row", engine, "_merged")
def _(original, old, new):
    return replace(original(old, new), updated_at=old.updated_at)


@fault("projections", "the result is lost", engine, "_merged")
def _(original, old, new):
    return replace(original(old, new), result=UNSET)


@fault("projections", "the error is lost", engine, "_merged")
def _(original, old, new):
    return replace(original(old, new), error=None)


@fault("projections", "no result is None", engine, "_copies")
def _(original, rows):
    return [replace(r, result=None if r.result is UNSET else r.result) for r in original(rows)]


@fault("projections", "values are the caller's own", engine, "copied")
def _(original, value):
    return value


@fault("projections", "of equal ids in one call the last is taken", InMemoryProjections, UPSERT)
async def _(original, self, entries):
    await original(self, list({entry.task_id: entry for entry in entries}.values()))


@fault("projections", "of equal ids in one call the first is taken", InMemoryProjections, UPSERT)
async def _(original, self, entries):
    await original(self, list({entry.task_id: entry for entry in reversed(entries)}.values()))


@fault("projections", "a row that is passed over ends the call", InMemoryProjections, UPSERT)
async def _(original, self, entries):
    for entry in entries:
        before = self._rows.get(entry.task_id)
        await original(self, [entry])
        if before is not None and self._rows[entry.task_id] is before:
            return


@fault("projections", "a call writes a thousand rows and no more", InMemoryProjections, UPSERT)
async def _(original, self, entries):
    await original(self, entries[:1_000])


@fault("projections", "a call looks first and writes later", InMemoryProjections, UPSERT)
async def _(original, self, entries):
    if len(entries) != 1 or entries[0].task_id not in self._rows:
        await original(self, entries)
        return
    (entry,) = entries
    old = self._rows[entry.task_id]
    await asyncio.sleep(0)
    if engine.may_become(old.status, entry.status):
        self._rows[entry.task_id] = engine._merged(old, entry)


@fault("projections", "rows are got in the order they were made", InMemoryProjections, "get")
async def _(original, self, task_ids):
    return await original(self, [id for id in self._rows if id in task_ids])


@fault("projections", "opening forgets", InMemoryProjections, "open")
async def _(original, self):
    self._rows.clear()
