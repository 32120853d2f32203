"""The smallest whole example: add tasks, run them, look at their results.

    python examples/quickstart.py

In real life adding and running are two processes. The second one is `taskloom worker
quickstart:loom`, started in this directory, beside `taskloom status --url sqlite:///quickstart.db`.
"""

from __future__ import annotations

import asyncio

from taskloom import Loom

loom = Loom("sqlite:///quickstart.db")


@loom.task(queue="email", retries=3)
async def send_email(to: str, subject: str) -> str:
    """An ordinary function: its arguments are the payload, what it returns is the result."""
    return f"{subject!r} went to {to}"


async def main() -> None:
    """Add three tasks, work until nothing is left, print what came of them."""
    async with loom:
        added = await send_email.enqueue_many(
            [("ada@example.com", "Hi"), ("bob@example.com", "Hi"), ("eve@example.com", "Bye")]
        )
        await loom.handler.drain(timeout=30)
        for task in await loom.get_tasks(task.id for task in added):
            print(f"{task.status}: {task.execution_result}")


if __name__ == "__main__":
    asyncio.run(main())
