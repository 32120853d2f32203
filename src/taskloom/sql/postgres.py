"""What PostgreSQL needs: a URL as asyncpg takes it, and connections set up."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from taskloom.errors import ConfigurationError

__all__ = ["is_shared", "make_engine"]

_CONNECT_TIMEOUT = 10.0
_CALL_TIMEOUT = 30.0
_CONNECTIONS = 5
_MORE_CONNECTIONS = 10
"""Of one process: what is kept, and what is opened for a while when more is under way at once."""

_SETTINGS = {
    "application_name": "taskloom",
    # Every statement here has an index to go by. A plan is kept for as long as the connection, and
    # one made while the tables were small would otherwise read all of them later.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    # Planning for what is bound would take a document of rows apart once more each time.
    "plan_cache_mode": "force_generic_plan",
    # Milliseconds. A process that is stopped within a transaction would hold its rows for ever.
    "idle_in_transaction_session_timeout": "10000",
}

_SHARED = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    # Without a name a statement gives way to the next one. One with a name would stay on whichever
    # server connection it was made, for as long as the pooler keeps that.
    "prepared_statement_name_func": lambda: "",
}


_OPTIONS = {
    *("application_name", "gsslib", "host", "krbsrvname", "passfile", "pgbouncer", "port"),
    *("ssl", "sslmode", "target_session_attrs"),
}
"""What a URL may say after its question mark: what asyncpg takes as texts, and what is ours."""


def make_engine(url: URL) -> AsyncEngine:
    """An engine with connections of its own; no I/O. Raises `ConfigurationError`.

    Takes `?sslmode=...` as other programs do, and `?ssl=...` as asyncpg does;
    `?pgbouncer=transaction` is for a pgbouncer that hands a connection on after each transaction.
    """
    if "+" in url.drivername and url.get_driver_name() != "asyncpg":
        raise ConfigurationError(f"{url.drivername}: use postgresql:// without a driver")
    if not url.database:
        raise ConfigurationError("the URL names no database: postgresql://user@host/database")
    if unknown := sorted(url.query.keys() - _OPTIONS):
        raise ConfigurationError(
            f"unknown option in the URL: {', '.join(unknown)}; it takes "
            f"{', '.join(sorted(_OPTIONS))}"
        )
    settings: dict[str, Any] = {"server_settings": _SETTINGS}
    if is_shared(url):
        settings = _SHARED
    elif name := url.query.get("application_name"):
        settings = {"server_settings": {**_SETTINGS, "application_name": name}}
    return create_async_engine(
        _for_asyncpg(url),
        pool_size=_CONNECTIONS,
        max_overflow=_MORE_CONNECTIONS,
        pool_timeout=_CONNECT_TIMEOUT,
        pool_use_lifo=True,
        connect_args={
            "timeout": _CONNECT_TIMEOUT,
            "command_timeout": _CALL_TIMEOUT,
            **settings,
        },
    )


def is_shared(url: URL) -> bool:
    """Whether a transaction may find itself on another connection than the one before.

    Nothing can be set or kept prepared there, and nobody can listen; telling works.
    """
    return url.query.get("pgbouncer") == "transaction"


def _for_asyncpg(url: URL) -> URL:
    query = dict(url.query)
    query.pop("pgbouncer", None)
    query.pop("application_name", None)
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    return url.set(drivername="postgresql+asyncpg", query=query)
