"""What is opened before use and closed afterwards: every part of a handler."""

from __future__ import annotations

from types import TracebackType
from typing import Self

__all__ = ["Opening"]


class Opening:
    """`async with part:` opens it and closes it again."""

    async def open(self) -> None:
        """Connect and create what is missing. Safe to repeat, and from many processes at once."""

    async def upgrade(self) -> None:
        """Bring up to date what an earlier version made, however long it takes; safe to repeat.

        `open` does so itself where that is quick. Otherwise it raises `ConfigurationError`, telling
        people to run `taskloom init`.
        """

    async def close(self) -> None:
        """Let go of connections. Safe to repeat."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
