"""Clients of pymongo from a URL."""

from __future__ import annotations

from typing import Any

from bson.errors import BSONError
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import PyMongoError

from taskloom.errors import ConfigurationError
from taskloom.redacting import redacted

__all__ = ["database_from_url"]

CONNECT_LIMIT = 3.0
"""Seconds that a server may take to accept a connection, or a replica set to elect a primary."""
ANSWER_LIMIT = 20.0
"""Seconds within which every answer must come; a thousand tasks take a slow server one or two."""


def database_from_url(url: str) -> AsyncDatabase[Any]:
    """The database that a URL names, `taskloom` if it names none; no I/O.

    What the URL says about time-outs wins. Raises `ConfigurationError`, which does not show it.
    """
    try:
        client: AsyncMongoClient[Any] = AsyncMongoClient(_with_limits(url), appname="taskloom")
        return client.get_default_database("taskloom")
    except (PyMongoError, BSONError, ValueError, TypeError):
        # What the driver says may quote the URL, and with it a password.
        raise ConfigurationError(
            f"{redacted(url)} is no url of a MongoDB: write for example "
            "mongodb://user:password@host:27017/taskloom"
        ) from None


def _with_limits(url: str) -> str:
    # The driver's own limits are 30 seconds and none. While a server is away, its monitor alone
    # asks for it, twice a second, whoever waits.
    limits = {
        "serverSelectionTimeoutMS": CONNECT_LIMIT,
        "connectTimeoutMS": CONNECT_LIMIT,
        "socketTimeoutMS": ANSWER_LIMIT,
    }
    given = url.partition("?")[2].lower()
    missing = [
        f"{name}={seconds * 1000:.0f}"
        for name, seconds in limits.items()
        if name.lower() not in given
    ]
    if not missing:
        return url
    scheme, separator, rest = url.partition("://")
    if "/" not in rest and "?" not in rest:
        rest += "/"
    return f"{scheme}{separator}{rest}{'&' if '?' in rest else '?'}{'&'.join(missing)}"
