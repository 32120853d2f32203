"""What happened, in order: the only thing the checker looks at besides how it ended."""

from __future__ import annotations

from typing import Any, NamedTuple

from taskloom import Task

__all__ = ["Event", "Final", "History"]


class Event(NamedTuple):
    """One thing that happened to one task, or (task "") to a worker.

    Kinds, with what `about` holds:

    - `add.invoke` (`fields`: the task), `add.ok`, `add.unknown`: what a client or an executor that
      calls `handler.add_tasks` was told
    - `start` (`run`, `attempt`, `due`, `expires`), `end` (`run`, `word`, `children`): user code
    - `claim` (`receipt`, `count`), `ack`, `release`, `back`, `settle` (`receipt`, `status`): what
      an engine accepted; `back` is a release that changes the task
    - `row` (`old`, `new`, `poison`): a stored task changed its status
    - `cancel`, `revive`, with `ok` once the client was told so
    - `flow.open` (`total`, `join`, `by`), `flow.steps` (`results`, `abort`), `flow.early`
      (`timed_out`), `flow.joined`: what a barrier accepted; `flow.told` (`end`): what an event
      said. The flow's id stands for the task's
    - `project` (`old`, `new`, `asked`): what a row of projections said before and after
    - `fault` (`call`, `fault`, `ids`): an engine call of this worker did not simply succeed
    - `crash`, `stop`, `broken` (`error`): a worker died, was asked to stop, hit a fault of ours
    """

    at: float
    kind: str
    who: str
    task: str
    about: dict[str, Any]

    def __str__(self) -> str:
        about = " ".join(f"{key}={value}" for key, value in self.about.items())
        return f"{self.at:9.4f} {self.who:8} {self.kind:11} {self.task:12.12} {about:.300}"


class Final(NamedTuple):
    """What was left at the end, when nothing was going on any more."""

    rows: dict[str, Task[Any]]
    """Stored tasks by id."""
    waiting: list[str] = []
    """Ids still on the queue, in whatever state."""
    leftovers: list[str] = []
    """Locks, leases and asyncio tasks that nobody let go of."""
    unfinished: bool = False
    """The time given was over before the work was."""
    projections: dict[str, str] = {}
    """What the rows of projections say, by task or flow."""


class History:
    """Appends events under the loop's time."""

    def __init__(self, now: Any) -> None:
        self.events: list[Event] = []
        self._now = now

    def note(self, kind: str, who: str, task: str = "", **about: Any) -> None:
        self.events.append(Event(self._now(), kind, who, task, about))
