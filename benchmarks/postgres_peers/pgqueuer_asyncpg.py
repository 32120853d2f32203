"""pgqueuer on asyncpg."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job

from benchmarks.peer import Peer

__all__ = ["PgQueuerPeer"]


class PgQueuerPeer(Peer):
    """Batches of 100. Its tables are logged, as they are by default; the payload is JSON."""

    uvloop = True
    conn: asyncpg.Connection[Any]

    async def __aenter__(self) -> PgQueuerPeer:
        self.conn = await asyncpg.connect(self.url)
        self.queries = Queries(AsyncpgDriver(self.conn))
        if not await self.queries.schema_is_installed():
            await self.queries.install()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.conn.close()

    async def enqueue(self, call: dict[str, Any]) -> None:
        await self.queries.enqueue("noop", json.dumps(call).encode())

    async def enqueue_many(self, calls: list[dict[str, Any]]) -> None:
        payloads = [json.dumps(call).encode() for call in calls]
        await self.queries.enqueue(["noop"] * len(calls), payloads, [0] * len(calls))

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        conn = await asyncpg.connect(self.url)
        pgq = PgQueuer(AsyncpgDriver(conn))

        @pgq.entrypoint("noop")
        async def noop(job: Job) -> None:
            assert job.payload is not None
            self.ran(json.loads(job.payload)["number"])

        working = asyncio.create_task(pgq.qm.run(batch_size=100))
        try:
            yield
        finally:
            pgq.qm.shutdown.set()
            await working
            await conn.close()
