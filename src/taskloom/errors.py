"""Every error Taskloom raises, in one tree.

TaskloomError
├── UnavailableError             an engine cannot be reached: wait, then try again
│   ├── QueueUnavailableError    says which tasks were accepted and which were not
│   └── StorageUnavailableError
├── InvalidTaskError             (ValueError) a task that no engine could keep; names the field
├── InvalidFlowError             (ValueError) a flow that could never end: no step, no barrier, …
├── ForeignTaskError             (ValueError) an executor spoke about a task it was not given
├── TooManyChildrenError         one execution added more tasks than allowed
├── NestingError                 children of children of … beyond the limit
├── TaskFailedError              an executor called `fail` with a text: that text
├── NoOutcomeError               an executor returned without saying how its task ended
├── TaskTimeoutError             (TimeoutError) an attempt ran longer than its executor allows
├── NotOpenError                 a Loom was used outside `async with`
├── RegistrationError            (ValueError) two executors for one task type
├── ConfigurationError           (ValueError) parts that do not fit together
└── MissingExtraError            (ImportError) an engine whose package is not installed
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskloom.task import Task

__all__ = [
    "ConfigurationError",
    "ForeignTaskError",
    "InvalidFlowError",
    "InvalidTaskError",
    "MissingExtraError",
    "NestingError",
    "NoOutcomeError",
    "NotOpenError",
    "QueueUnavailableError",
    "RegistrationError",
    "StorageUnavailableError",
    "TaskFailedError",
    "TaskTimeoutError",
    "TaskloomError",
    "TooManyChildrenError",
    "UnavailableError",
]


class TaskloomError(Exception):
    """The root of every error that Taskloom raises on purpose."""


class UnavailableError(TaskloomError):
    """An engine did not answer. Nothing is known to be wrong with the call: wait and repeat it."""


class QueueUnavailableError(UnavailableError):
    """The queue did not take all tasks.

    `accepted` tasks will run; `rejected` ones are nowhere and may be added again as they are.
    """

    def __init__(
        self,
        message: str,
        *,
        accepted: Sequence[Task[Any]] = (),
        rejected: Sequence[Task[Any]] = (),
    ) -> None:
        super().__init__(message)
        self.accepted = list(accepted)
        self.rejected = list(rejected)


class StorageUnavailableError(UnavailableError):
    """The storage did not answer; what was being written is written whole or not at all."""


class InvalidTaskError(TaskloomError, ValueError):
    """A task that no engine could keep. The message starts with the name of the field."""


class InvalidFlowError(TaskloomError, ValueError):
    """A flow without steps, with a timeout that is not positive, or without a flow barrier."""


class ForeignTaskError(TaskloomError, ValueError):
    """An executor reported on a task that is not part of its call."""


class TooManyChildrenError(TaskloomError):
    """One execution added more tasks than `max_children`; none of them was added."""


class NestingError(TaskloomError):
    """A task added a task that added a task … deeper than `max_depth`."""


class TaskFailedError(TaskloomError):
    """An executor called `fail` with a text, or without saying why."""


class NoOutcomeError(TaskloomError):
    """An executor returned without calling `success`, `fail` or rescheduling its task."""


class TaskTimeoutError(TaskloomError, TimeoutError):
    """An attempt ran longer than its executor's `timeout` and was cancelled."""


class NotOpenError(TaskloomError):
    """A `Loom` was used before it was opened, or after it was closed."""


class RegistrationError(TaskloomError, ValueError):
    """A second executor for the same queue and task type."""


class ConfigurationError(TaskloomError, ValueError):
    """Parts or options that cannot work together."""


class MissingExtraError(TaskloomError, ImportError):
    """An engine's package is not installed."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(
            f"{package} is not installed. Install it with: pip install 'taskloom[{extra}]'"
        )
        self.extra = extra
