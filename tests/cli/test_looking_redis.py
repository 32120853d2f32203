"""What the command line shows where the queue is beside the storage."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from command_line import CommandLine

from taskloom import Loom, Task

APP = """
from taskloom import Loom

loom = Loom("{url}")

@loom.task(queue="mail")
async def greet(name: str) -> None: ...
"""


def test_status_counts_what_is_on_the_queue(cli: CommandLine, redis_url: str) -> None:
    url = f"{redis_url}?prefix=test-{uuid4().hex}"
    # It cannot know the queues.
    assert "--app MODULE:LOOM" in cli.call("status", "--url", url).stdout
    later = datetime.now(UTC) + timedelta(days=7)

    async def add() -> None:
        async with Loom(url) as loom:
            await loom.add_tasks(
                [
                    Task(type="greet", queue_id="mail", payload={"name": "Ada"}),
                    Task(type="greet", queue_id="mail", payload={"name": "Bob"}),
                    Task(type="greet", queue_id="mail", payload={}, execute_at=later),
                ]
            )

    asyncio.run(add())
    (cli.place / "mails.py").write_text(APP.format(url=url))
    answer = json.loads(cli.run("status", "--app", "mails:loom", "--json").stdout)
    assert answer["queues"]["mail"]["on_the_queue"] == 2
    assert answer["queues"]["mail"]["counts"]["scheduled"] == 1
    stored = cli.call("status", "--url", url).stdout  # the queue is known from what is stored
    assert "on queue" in stored
    assert "Tasks are waiting" in stored
