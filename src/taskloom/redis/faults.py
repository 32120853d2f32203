"""From redis-py's errors to Taskloom's: *unavailable* is to be repeated, the rest stays loud."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import AuthenticationError, ConnectionError, RedisError, TimeoutError

from taskloom.errors import ConfigurationError, StorageUnavailableError, UnavailableError

__all__ = ["translated"]

_UNAVAILABLE = {
    "OOM": "it is out of memory (maxmemory); make room, then go on",
    "MISCONF": "it cannot write its snapshot and refuses writes; check its disk and its log",
    "READONLY": "this is a replica now; wait for the failover, or point the URL at the primary",
    "LOADING": "it is still loading its data",
    "MASTERDOWN": "its primary is down",
    "NOREPLICAS": "too few replicas answer (min-replicas-to-write)",
    "CLUSTERDOWN": "the cluster is down",
    "TRYAGAIN": "a slot of the cluster is moving",
    "BUSY": "a script of somebody else keeps it busy",
    "UNBLOCKED": "it changed its role",
}
"""By the first word of the answer; a script's own error may carry it further inside."""


@contextmanager
def translated(
    place: str, unavailable: type[UnavailableError] = StorageUnavailableError
) -> Iterator[None]:
    """Raise `unavailable` for what may pass: connections, time-outs, a server in trouble.

    Credentials that are refused are a `ConfigurationError`. Neither shows a password.
    """
    try:
        yield
    except AuthenticationError as error:
        raise ConfigurationError(f"{place} refused the user or the password") from error
    except (ConnectionError, TimeoutError, OSError) as error:
        reason = str(error) or "it does not answer"
        raise unavailable(f"{place} cannot be reached: {reason}") from error
    except RedisError as error:
        reason = _reason(str(error))
        if not reason:
            raise
        raise unavailable(f"{place}: {reason}") from error


def _reason(message: str) -> str:
    words = message.replace("-", " ").split()
    return next((_UNAVAILABLE[word] for word in words if word in _UNAVAILABLE), "")
