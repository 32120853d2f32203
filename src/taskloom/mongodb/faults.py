"""From pymongo's errors to Taskloom's: *unavailable* is to be repeated, the rest stays loud."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pymongo.errors import (
    ConfigurationError as DriverConfigurationError,
)
from pymongo.errors import (
    ConnectionFailure,
    DocumentTooLarge,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WTimeoutError,
)

from taskloom.errors import ConfigurationError, InvalidTaskError, StorageUnavailableError

__all__ = ["InTheWayError", "is_conflict", "is_known", "translated"]

_DUPLICATE = 11000
"""The code of an insert whose `_id` is there."""

_WRITE_CONFLICT = 112
_IN_THE_WAY = {_DUPLICATE, _WRITE_CONFLICT}

_REFUSED = frozenset({13, 18, 8000})
"""Atlas's own, Unauthorized, AuthenticationFailed."""
_TOO_LARGE = frozenset({10334, 17280, 17419, 17420})
_UNAVAILABLE = {
    6: "a host of it cannot be reached",
    7: "a host of it cannot be found",
    50: "a statement took longer than it may",
    64: "too few members acknowledged a write; it may be undone after a failover",
    79: "the write concern is not known to it",
    89: "its network is slow",
    91: "it is shutting down",
    100: "too few members are there for a write",
    112: "others change the same records again and again",
    133: "no member fits the read preference",
    175: "the statement was ended by it",
    189: "its primary stepped down",
    246: "no snapshot is ready",
    251: "a transaction was ended by it",
    262: "a statement took longer than it may",
    9001: "its network failed",
    10058: "it has no primary",
    10107: "this is no primary; wait for the election",
    11600: "it is shutting down",
    11602: "its primary stepped down",
    13435: "this is no primary; wait for the election",
    13436: "it is recovering",
    14031: "its disk is full",
    24: "a lock was not to be had in time",
    225: "a transaction got too old",
    290: "it has more transactions than it can hold",
}
"""By the code of the answer, what may pass."""


class InTheWayError(StorageUnavailableError):
    """Another transaction holds a record, again and again."""


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Raise `StorageUnavailableError` for what may pass: connections, time-outs, elections.

    Credentials that are refused are a `ConfigurationError`, records beyond 16 MB an
    `InvalidTaskError`. None shows a password.
    """
    try:
        yield
    except DocumentTooLarge as error:
        raise _too_large() from error
    except DriverConfigurationError as error:
        raise ConfigurationError(f"{place}: {error}") from error
    except (TimeoutError, ConnectionFailure, ExecutionTimeout, WTimeoutError) as error:
        reason = str(error).partition(", Timeout:")[0] or "it does not answer"
        raise StorageUnavailableError(f"{place} cannot be reached: {reason}") from error
    except OperationFailure as error:
        if error.code in _TOO_LARGE:
            raise _too_large() from error
        if error.code in _REFUSED:
            message = f"{place} refused the user, the password or what they may do: {_said(error)}"
            raise ConfigurationError(message) from error
        reason = _UNAVAILABLE.get(error.code or 0, "")
        if not reason:
            raise
        kind = InTheWayError if error.code == _WRITE_CONFLICT else StorageUnavailableError
        raise kind(f"{place}: {reason}") from error


def is_conflict(error: PyMongoError) -> bool:
    """Whether a transaction came to nothing because of another one, and may be run again.

    A record that appeared since the transaction began is one, too.
    """
    if isinstance(error, ConnectionFailure) or not isinstance(error, OperationFailure):
        return False
    return error.has_error_label("TransientTransactionError") or _codes(error) <= _IN_THE_WAY


def is_known(error: OperationFailure) -> bool:
    """Whether all that failed are inserts of what is there already."""
    return _codes(error) == {_DUPLICATE}


def _codes(error: OperationFailure) -> set[int | None]:
    failed = (error.details or {}).get("writeErrors", ())
    return {each.get("code") for each in failed} or {error.code}


def _said(error: OperationFailure) -> str:
    return str((error.details or {}).get("errmsg", "")) or str(error.code)


def _too_large() -> InvalidTaskError:
    return InvalidTaskError(
        "payload, execution_result or execution_stats: together more than the 16 MB that a record "
        "of MongoDB can hold. Store large data elsewhere and pass a reference to it"
    )
