"""Progress: what the checkpoint of a shard says."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from taskloom.codec import decode, encode

__all__ = ["FINISHED", "Progress", "read_progress"]

FINISHED = "SHARD_END"
"""The checkpoint of a shard of which everything is settled, and to which nothing is added."""
MOST_RANGES = 500
"""How much is told of what is settled behind an unsettled record; the rest is delivered again."""


class Progress(Struct, frozen=True):
    """How far a shard is settled, and what is known of the records that follow."""

    mark: int | None = None
    """Up to this number all is settled; None: nothing is."""
    done: tuple[tuple[int, int], ...] = ()
    """From and to which number all is settled as well, in order, behind a record that is not."""
    tries: Mapping[int, int] = {}
    """How often records that are not settled were delivered, those never delivered left out."""

    def is_done(self, number: int) -> bool:
        """Whether a record behind the mark is settled."""
        place = bisect_left(self.done, number, key=lambda range: range[1])
        return place < len(self.done) and self.done[place][0] <= number

    def text(self) -> str:
        """As it is kept. Numbers are texts: they are too large for many a reader of JSON."""
        document: dict[str, Any] = {}
        if self.mark is not None:
            document["mark"] = str(self.mark)
        if self.done:
            done = self.done[:MOST_RANGES]
            document["done"] = [[str(first), str(last)] for first, last in done]
        if self.tries:
            document["tries"] = {str(number): count for number, count in self.tries.items()}
        return encode(document).decode()


def read_progress(checkpoint: str | None) -> Progress:
    """A checkpoint that is not `FINISHED`."""
    if checkpoint is None:
        return Progress()
    document = decode(checkpoint)
    mark = document.get("mark")
    return Progress(
        None if mark is None else int(mark),
        tuple((int(first), int(last)) for first, last in document.get("done", ())),
        {int(number): count for number, count in document.get("tries", {}).items()},
    )
