"""Taskloom: an asyncio task queue that starts on one SQLite file and grows to many machines.

    from taskloom import Loom

    loom = Loom("sqlite:///taskloom.db")

    @loom.task(queue="email", retries=3)
    async def send_email(to: str, subject: str) -> None: ...

Engines are in `taskloom.memory` and `taskloom.sql`, the interfaces to write your own in
`taskloom.interfaces`, the suites that check it in `taskloom.testing`.
"""

from typing import TYPE_CHECKING

from taskloom.actions import ExecutorActions
from taskloom.app import Loom
from taskloom.clock import Clock, Seconds, SystemClock
from taskloom.config import Retention, TaskHandlerConfig
from taskloom.errors import (
    ConfigurationError,
    ForeignTaskError,
    InvalidFlowError,
    InvalidTaskError,
    MissingExtraError,
    NestingError,
    NoOutcomeError,
    NotOpenError,
    QueueUnavailableError,
    RegistrationError,
    StorageUnavailableError,
    TaskFailedError,
    TaskloomError,
    TaskTimeoutError,
    TooManyChildrenError,
    UnavailableError,
)
from taskloom.executors import (
    AsyncConfig,
    Executor,
    MultiTaskExecutor,
    ParallelTaskExecutor,
    RetryPolicy,
    SingleTaskExecutor,
)
from taskloom.flow_events import (
    FlowAborted,
    FlowCompleted,
    FlowContext,
    FlowLifecycleProvider,
    FlowStarted,
    FlowTimedOut,
)
from taskloom.flows import FlowResults, FlowStep, FlowStepResult, NewFlow, flow_results
from taskloom.handler import BatchSummary, TaskHandler
from taskloom.handoff import AsyncTaskManager, AsyncTaskMetrics, ShutdownResult
from taskloom.lifecycle import (
    BatchCompleted,
    BatchStarted,
    ConsumerInfo,
    ConsumerStarted,
    ConsumerStats,
    ConsumerStopped,
    LifecycleConfig,
    QueueLifecycleConfig,
    QueueStats,
    TaskBatchCompleted,
    TaskBatchStarted,
    TaskCancelled,
    TaskCompleted,
    TaskContext,
    TaskErrorEvent,
    TaskExhausted,
    TaskFailed,
    TaskLifecycleProvider,
    TaskNotificationProvider,
    TaskScheduled,
    TasksDiscarded,
    TaskStarted,
    TaskTiming,
    WorkerHeartbeat,
    WorkerInfo,
    WorkerLifecycleProvider,
    WorkerStarted,
    WorkerStats,
    WorkerStopped,
)
from taskloom.log_context import LogContextFilter, log_context, structlog_processor
from taskloom.projections import EntityTaskProjection, build_projection
from taskloom.queue_events import (
    ConsumerCheckpoint,
    ConsumerConnected,
    ConsumerDisconnected,
    MessageConsumed,
    MessagePublished,
    QueueContext,
    QueueLifecycleProvider,
)
from taskloom.registry import TaskQueuesManager
from taskloom.runner import RunResult, TaskRunner
from taskloom.task import (
    EntityRef,
    FailurePolicy,
    FlowJoin,
    FlowMeta,
    Task,
    TaskMetadata,
    TaskStatus,
)
from taskloom.task_function import TaskFunction

if TYPE_CHECKING:
    from taskloom.console import ConsoleHealthProvider

__version__ = "0.1.0"

__all__ = [
    "AsyncConfig",
    "AsyncTaskManager",
    "AsyncTaskMetrics",
    "BatchCompleted",
    "BatchStarted",
    "BatchSummary",
    "Clock",
    "ConfigurationError",
    "ConsoleHealthProvider",
    "ConsumerCheckpoint",
    "ConsumerConnected",
    "ConsumerDisconnected",
    "ConsumerInfo",
    "ConsumerStarted",
    "ConsumerStats",
    "ConsumerStopped",
    "EntityRef",
    "EntityTaskProjection",
    "Executor",
    "ExecutorActions",
    "FailurePolicy",
    "FlowAborted",
    "FlowCompleted",
    "FlowContext",
    "FlowJoin",
    "FlowLifecycleProvider",
    "FlowMeta",
    "FlowResults",
    "FlowStarted",
    "FlowStep",
    "FlowStepResult",
    "FlowTimedOut",
    "ForeignTaskError",
    "InvalidFlowError",
    "InvalidTaskError",
    "LifecycleConfig",
    "LogContextFilter",
    "Loom",
    "MessageConsumed",
    "MessagePublished",
    "MissingExtraError",
    "MultiTaskExecutor",
    "NestingError",
    "NewFlow",
    "NoOutcomeError",
    "NotOpenError",
    "ParallelTaskExecutor",
    "QueueContext",
    "QueueLifecycleConfig",
    "QueueLifecycleProvider",
    "QueueStats",
    "QueueUnavailableError",
    "RegistrationError",
    "Retention",
    "RetryPolicy",
    "RunResult",
    "Seconds",
    "ShutdownResult",
    "SingleTaskExecutor",
    "StorageUnavailableError",
    "SystemClock",
    "Task",
    "TaskBatchCompleted",
    "TaskBatchStarted",
    "TaskCancelled",
    "TaskCompleted",
    "TaskContext",
    "TaskErrorEvent",
    "TaskExhausted",
    "TaskFailed",
    "TaskFailedError",
    "TaskFunction",
    "TaskHandler",
    "TaskHandlerConfig",
    "TaskLifecycleProvider",
    "TaskMetadata",
    "TaskNotificationProvider",
    "TaskQueuesManager",
    "TaskRunner",
    "TaskScheduled",
    "TaskStarted",
    "TaskStatus",
    "TaskTimeoutError",
    "TaskTiming",
    "TaskloomError",
    "TasksDiscarded",
    "TooManyChildrenError",
    "UnavailableError",
    "WorkerHeartbeat",
    "WorkerInfo",
    "WorkerLifecycleProvider",
    "WorkerStarted",
    "WorkerStats",
    "WorkerStopped",
    "build_projection",
    "flow_results",
    "log_context",
    "structlog_processor",
]


def __getattr__(name: str) -> object:
    # What draws on terminals takes a quarter of the time that importing all the rest does.
    if name == "ConsoleHealthProvider":
        from taskloom.console import ConsoleHealthProvider

        return ConsoleHealthProvider
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
