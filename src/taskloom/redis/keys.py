"""The names of all keys, and which of them share a hash tag.

`{taskloom:queue:mail}:stream`: what stands in braces decides the slot of a cluster, so everything
that one script touches has the same. Each queue has a slot of its own; the cache, the stored tasks,
the flows and the locks of shards have one each.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["GROUP", "Keys", "QueueKeys"]

GROUP = "workers"
"""The consumer group of every stream."""


class QueueKeys(NamedTuple):
    """The keys of one queue, in the order its scripts take them."""

    stream: str
    """Tasks that wait or are in flight; each entry has `i` (id), `n` (deliveries), `b` (body)."""
    batches: str
    """Sorted set: what was read together, by the end of its lease in microseconds of the server."""
    leases: str
    """Sorted set: entries that have a lease of their own instead, by its end. Below 0: released, or
    left over from a batch, to be claimed again in the old order."""
    released: str
    """Hash: how often each entry in flight was released, which does not count as a delivery."""
    delayed: str
    """Sorted set: ids by the time they are due."""
    bodies: str
    """Hash: deliveries and body of each delayed id."""
    ids: str
    """Set: every id that waits, is delayed or in flight."""
    done: str
    """Start of the names of sets of ids that were acknowledged, one for each span of time."""
    bell: str
    """Stream of one entry: a new one says that waiting claims should look."""
    new: str
    """When the group was made, until what the storage knows of was put again."""


class Keys:
    """Names under one prefix: two of them on one Redis know nothing of each other."""

    def __init__(self, prefix: str = "taskloom") -> None:
        if not prefix or any(sign in prefix for sign in "{}"):
            raise ValueError(f"prefix: a name without braces, not {prefix!r}")
        self.prefix = prefix
        self.cache = f"{{{prefix}:cache}}:"
        self.tasks = f"{{{prefix}:tasks}}:"
        self.flows = f"{{{prefix}:flows}}:"
        self.locks = f"{{{prefix}:locks}}:"

    def queue(self, queue_id: str) -> QueueKeys:
        # A brace in the name would end the tag early, and an empty tag is none.
        name = queue_id.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
        tag = f"{{{self.prefix}:queue:{name}}}"
        return QueueKeys(*(f"{tag}:{field}" for field in QueueKeys._fields))
