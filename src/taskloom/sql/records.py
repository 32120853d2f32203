"""Records set aside, and workers that report themselves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from operator import itemgetter
from typing import Any

import msgspec
from sqlalchemy import Connection, Executable, delete, select

from taskloom.codec import decode, encode
from taskloom.interfaces import DeadRecord, UnreadableRecord, WorkerRecord
from taskloom.sql.changing import bury
from taskloom.sql.dialect import among, insert_into, without_nul
from taskloom.sql.rows import moment
from taskloom.sql.schema import dead_records, workers

__all__ = ["RowLease", "list_dead", "list_workers", "report_worker", "set_aside"]


class RowLease(msgspec.Struct, frozen=True):
    """The receipt of a row that is not a task; by its place, for its id may be no text."""

    seq: int
    epoch: int


def set_aside(conn: Connection, records: Sequence[UnreadableRecord], now: int) -> None:
    """Keep the bytes, and end the rows they came from. Equal bytes are kept once."""
    if not records:
        return
    rows = (_dead_row(record, now) for record in records)
    conn.execute(_keep(), sorted(rows, key=itemgetter("digest")))
    leases = [r.receipt for r in records if isinstance(r.receipt, RowLease)]
    bury(conn, [(lease.seq, lease.epoch) for lease in leases], now)


@cache
def _keep() -> Executable:
    return insert_into(dead_records).on_conflict_do_nothing(index_elements=["digest"])


def _dead_row(record: UnreadableRecord, now: int) -> dict[str, Any]:
    digest = sha256(record.queue_id.encode() + b"\0" + record.raw).hexdigest()
    return {
        "digest": digest,
        "queue_id": record.queue_id,
        "raw": record.raw,
        "reason": without_nul(record.reason),
        "at": now,
    }


def list_dead(conn: Connection, limit: int) -> list[DeadRecord]:
    """What was set aside, the newest first."""
    d = dead_records.c
    query = select(d.raw, d.reason, d.queue_id, d.at).order_by(d.seq.desc()).limit(limit)
    return [
        DeadRecord(raw=raw, reason=reason, queue_id=queue_id, at=moment(at))
        for raw, reason, queue_id, at in conn.execute(query)
    ]


def report_worker(conn: Connection, worker: WorkerRecord, now: int, until: int) -> None:
    """Note a worker until a time; those whose time has come are forgotten."""
    new = insert_into(workers).values(
        worker_id=worker.worker_id, body=encode(worker).decode(), expires_at=until
    )
    values = {"body": new.excluded.body, "expires_at": new.excluded.expires_at}
    conn.execute(new.on_conflict_do_update(index_elements=["worker_id"], set_=values))
    # Afterwards, and not what others hold: after an outage all of them report at once.
    over = select(workers.c.worker_id).where(workers.c.expires_at <= now)
    conn.execute(
        delete(workers).where(among(workers.c.worker_id, over.with_for_update(skip_locked=True)))
    )


def list_workers(conn: Connection, now: int) -> list[WorkerRecord]:
    """Workers whose time has not come, by id."""
    w = workers.c
    query = select(w.body).where(w.expires_at > now).order_by(w.worker_id)
    return [msgspec.convert(decode(body), WorkerRecord) for (body,) in conn.execute(query)]
