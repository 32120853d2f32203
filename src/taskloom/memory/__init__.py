"""Engines that live and die with their process: for tests, and for work that may be lost."""

from taskloom.memory.cache import InMemoryCache
from taskloom.memory.flow_barrier import InMemoryFlowBarrier
from taskloom.memory.immediate import ImmediateQueue
from taskloom.memory.projections import InMemoryProjections
from taskloom.memory.queue import InMemoryQueue
from taskloom.memory.storage import InMemoryStorage

__all__ = [
    "ImmediateQueue",
    "InMemoryCache",
    "InMemoryFlowBarrier",
    "InMemoryProjections",
    "InMemoryQueue",
    "InMemoryStorage",
]
