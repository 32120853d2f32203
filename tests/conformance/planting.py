"""How a fault is planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch


@dataclass(frozen=True)
class Fault:
    """Attributes of an engine replaced: `patches` are (where, attribute, replacement)."""

    name: str
    suite: str
    patches: tuple[tuple[Any, str, Any], ...]

    @contextmanager
    def planted(self) -> Iterator[None]:
        with ExitStack() as stack:
            for where, attribute, replacement in self.patches:
                stack.enter_context(patch.object(where, attribute, replacement))
            yield


FAULTS: list[Fault] = []


def fault(suite: str, name: str, where: Any, attribute: str) -> Callable[[Any], Any]:
    """The decorated function, called with the original first, takes the attribute's place."""
    original = getattr(where, attribute)

    def plant(broken: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return broken(original, *args, **kwargs)

        FAULTS.append(Fault(name, suite, ((where, attribute, replacement),)))
        return broken

    return plant
