"""Parts of a handler whose calls are noted, and fail, hang or lie on demand."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar

from taskloom import QueueUnavailableError, StorageUnavailableError
from taskloom.interfaces import Cache, MessageQueue, TaskArchive, TaskStorage

PATIENCE = 15.0
"""Seconds until a signal that must come counts as missing."""

T = TypeVar("T")


class Notes(list[T], Generic[T]):
    """A list that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Event()

    def note(self, item: T) -> None:
        self.append(item)
        self._news.set()

    async def reach(self, count: int, match: Callable[[T], bool] = lambda item: True) -> list[T]:
        """Wait until `count` items match; returns those that do."""
        async with asyncio.timeout(PATIENCE):
            while len(found := [item for item in self if match(item)]) < count:
                self._news.clear()
                await self._news.wait()
        return found


class Parts:
    """The three parts of a handler."""

    def __init__(self, queue: MessageQueue, storage: Any, cache: Cache) -> None:
        self.queue = queue
        self.storage = storage
        self.cache = cache


class Gate:
    """A call that hangs until `open` is set: `reached` when it came, `left` when it is given up.

    `answer`: it is done, and its answer hangs.
    """

    def __init__(self, *, answer: bool = False) -> None:
        self._answer = answer
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, work: Callable[[], Awaitable[Any]]) -> Any:
        done = await work() if self._answer else None
        self.reached.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        return done if self._answer else await work()


class Meddled(Parts):
    """Parts whose calls are noted as "queue.put", … and fail, hang or are told as failed on demand.

    `calls` notes a call when it begins, with its arguments; `done` when it worked.
    """

    def __init__(self, parts: Parts, **features: Any) -> None:
        self.calls: Notes[tuple[str, tuple[Any, ...], dict[str, Any]]] = Notes()
        self.done: Notes[str] = Notes()
        self._faults: dict[str, deque[Any]] = defaultdict(deque)
        self._endless: dict[str, Any] = {}
        storage = _Storage(self, parts.storage)
        queue = _Queue(self, parts.queue)
        if parts.queue.storage is not None:
            queue.storage = storage
        if features:
            queue.features = _changed(queue.features, features)
        super().__init__(queue, storage, _Cache(self, parts.cache))

    def fail(self, name: str, times: int = 1) -> None:
        """The next calls raise, nothing done."""
        self._faults[name].extend([_before(name)] * times)

    def fail_after(self, name: str, times: int = 1) -> None:
        """The next calls are done, but reported as failed."""
        self._faults[name].extend([_after(name)] * times)

    def answer(self, name: str, value: Any) -> None:
        """The next call is answered with `value`, nothing done."""
        self._faults[name].append(_answered(value))

    def hold(self, name: str) -> Gate:
        """The next call hangs until its gate is opened."""
        return self._gate(name, Gate())

    def hold_answer(self, name: str) -> Gate:
        """The next call is done, and its answer hangs until its gate is opened."""
        return self._gate(name, Gate(answer=True))

    def _gate(self, name: str, gate: Gate) -> Gate:
        self._faults[name].append(gate)
        return gate

    def break_down(self, name: str) -> None:
        """Every call raises, until `repair`."""
        self._endless[name] = _before(name)

    def repair(self, name: str) -> None:
        """Calls work again."""
        self._endless.pop(name, None)

    def names(self, *wanted: str) -> list[str]:
        """The calls so far, in order; of the `wanted` names only."""
        return [name for name, _, _ in self.calls if not wanted or name in wanted]

    async def called(self, name: str, times: int = 1) -> None:
        """Wait until a call was begun so many times."""
        await self.calls.reach(times, lambda call: call[0] == name)

    async def meddle(self, name: str, work: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self.calls.note((name, args, kwargs))
        fault = self._endless.get(name)
        if fault is None and self._faults[name]:
            fault = self._faults[name].popleft()
        answer = await (
            work(*args, **kwargs) if fault is None else fault(lambda: work(*args, **kwargs))
        )
        self.done.note(name)
        return answer


def _error(name: str) -> Exception:
    kind = QueueUnavailableError if name.startswith("queue.") else StorageUnavailableError
    return kind(f"{name} failed on purpose")


def _before(name: str) -> Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]:
    async def fault(work: Callable[[], Awaitable[Any]]) -> Any:
        raise _error(name)

    return fault


def _after(name: str) -> Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]:
    async def fault(work: Callable[[], Awaitable[Any]]) -> Any:
        await work()
        raise _error(name)

    return fault


def _answered(value: Any) -> Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]:
    async def fault(work: Callable[[], Awaitable[Any]]) -> Any:
        return value

    return fault


def _changed(features: Any, changes: dict[str, Any]) -> Any:
    fields = {name: getattr(features, name) for name in features.__struct_fields__}
    return type(features)(**(fields | changes))


def _delegated(part: str, name: str) -> Any:
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        work = getattr(self.inner, name)
        return await self.meddled.meddle(f"{part}.{name}", work, args, kwargs)

    return call


def _methods(part: str, names: Iterable[str]) -> dict[str, Any]:
    return {name: _delegated(part, name) for name in names}


def _init(self: Any, meddled: Meddled, inner: Any) -> None:
    self.meddled = meddled
    self.inner = inner


def _init_queue(self: Any, meddled: Meddled, inner: MessageQueue) -> None:
    _init(self, meddled, inner)
    self.name, self.features = inner.name, inner.features
    self.register = inner.register


_Queue: Any = type(
    "_Queue",
    (MessageQueue,),
    {"__init__": _init_queue, **_methods("queue", MessageQueue.__abstractmethods__)},
)
_Storage: Any = type(
    "_Storage",
    (TaskStorage, TaskArchive),
    {
        "__init__": _init,
        **_methods("storage", TaskStorage.__abstractmethods__ | TaskArchive.__abstractmethods__),
    },
)
_Cache: Any = type(
    "_Cache", (Cache,), {"__init__": _init, **_methods("cache", Cache.__abstractmethods__)}
)
