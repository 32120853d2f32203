"""Putting: records into a stream, what was refused again, in the order of each key."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from taskloom.errors import QueueUnavailableError
from taskloom.kinesis.batches import Batches
from taskloom.kinesis.client import KinesisClient
from taskloom.kinesis.faults import ThrottledError
from taskloom.kinesis.records import Outgoing

__all__ = ["put_all"]

ATTEMPTS = 7
"""Requests in a row of which nothing was taken, before the call gives up."""
SHORTEST, LONGEST = 0.05, 1.6
"""Seconds before the next attempt: the first pause, which doubles, and the last."""


async def put_all(client: KinesisClient, stream: str, records: Sequence[Outgoing]) -> None:
    """Put all records, those that are refused again and again with growing pauses.

    Raises `QueueUnavailableError` with what was taken and what was not. A request whose answer was
    lost may have been carried out: its records are put again then, and are one task each as long as
    whoever reads them remembers.
    """
    batches, failures = Batches(records), 0
    while batches:
        batch = batches.next()
        reason: Exception | str | None = None
        try:
            answers = await client.put(stream, list(batch.values()))
        except ThrottledError as error:
            reason = error
        except QueueUnavailableError as error:
            raise _refused(records, batches.left, error) from error
        else:
            reason = next((code for code in answers if code is not None), None)
            pairs = zip(batch, answers, strict=True)
            taken = [name for name, code in pairs if code is None]
            batches.taken(taken)
            failures = 0 if taken else failures
        if reason is None:
            continue
        failures += 1
        if failures == ATTEMPTS:
            raise _refused(records, batches.left, reason)
        # Jitter: many who were refused together must not come back in step.
        pause = min(LONGEST, SHORTEST * 2 ** (failures - 1))
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))


def _refused(
    records: Sequence[Outgoing], left: Sequence[Outgoing], reason: object
) -> QueueUnavailableError:
    refused = {record.task.id for record in left}
    return QueueUnavailableError(
        f"the stream took {len(records) - len(left)} of {len(records)} tasks ({reason}); the "
        "others are in .rejected and may be added again",
        accepted=[each.task for each in records if each.task.id not in refused],
        rejected=[each.task for each in left],
    )
