"""Steps: engine calls that are repeated until they have answered, and then never again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

__all__ = ["Steps"]

T = TypeVar("T")


class Steps:
    """The engine calls of one settle: each is repeated until it has answered, then never again.

    What an answered call wrote may have gone on living since; saying it again would take it back.
    """

    def __init__(self) -> None:
        self._answers: dict[str, Any] = {}
        self._tried: set[str] = set()

    async def once(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """The answer of `call`, made now or before."""
        if name not in self._answers:
            first = name not in self._tried
            self._tried.add(name)
            answer = await call()
            self._answers[name] = answer
            if not first:
                self._answers[f"{name}, said again"] = True
        return cast(T, self._answers[name])

    def said_again(self, name: str) -> bool:
        """Whether an earlier try got no answer, and may have been carried out all the same."""
        return f"{name}, said again" in self._answers
