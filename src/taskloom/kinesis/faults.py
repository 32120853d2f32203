"""From botocore's errors to Taskloom's: *unavailable* is to be repeated, the rest stays loud."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)

from taskloom.errors import ConfigurationError, QueueUnavailableError

__all__ = ["THROTTLED", "ExpiredError", "ThrottledError", "UnknownPlaceError", "translated"]

THROTTLED = frozenset(
    {
        "KMSThrottlingException",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
    }
)
"""Too many calls, or too much in them: nothing is wrong, it is only too early."""
_REFUSED = frozenset(
    {
        "AccessDeniedException",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "KMSAccessDeniedException",
        "MissingAuthenticationToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)


class ThrottledError(QueueUnavailableError):
    """Too many calls: wait a little."""


class ExpiredError(QueueUnavailableError):
    """The iterator is older than five minutes: ask for another."""


class UnknownPlaceError(QueueUnavailableError):
    """The place in the shard that was asked for is not there: it is past the retention."""


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Raise `QueueUnavailableError` for what may pass, `ConfigurationError` for what people set."""
    try:
        yield
    except ClientError as error:
        raise _of_answer(place, error) from error
    except (NoCredentialsError, PartialCredentialsError, NoRegionError) as error:
        raise ConfigurationError(f"{place}: {error}; give the session what it lacks") from error
    except (HTTPClientError, BotoCoreError, OSError, TimeoutError) as error:
        reason = str(error) or "it does not answer"
        raise QueueUnavailableError(f"{place} cannot be reached: {reason}") from error


def _of_answer(place: str, error: Any) -> Exception:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in THROTTLED:
        return ThrottledError(f"{place} is asked too often ({code})")
    if code == "ExpiredIteratorException":
        return ExpiredError(f"{place}: an iterator expired")
    if code == "InvalidArgumentException":
        return UnknownPlaceError(f"{place}: {error}")
    if code == "ResourceNotFoundException":
        return QueueUnavailableError(f"{place}: {error}; create the stream, or check its name")
    if code in _REFUSED:
        return ConfigurationError(f"{place} refused: {error}; check the session's credentials")
    if status >= 500 or code in ("InternalFailure", "ServiceUnavailable"):
        return QueueUnavailableError(f"{place} is in trouble: {error}")
    ours: Exception = error  # a fault of ours: loud
    return ours
