"""What a caller can give to have tasks added in a transaction of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:  # who uses none need not load any of it
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    SqlConnection: TypeAlias = (
        AsyncConnection
        | AsyncSession
        | async_scoped_session[Any]
        | Connection
        | Session
        | scoped_session[Any]
    )
    """A connection or a session of SQLAlchemy; those that are not async on SQLite only."""

__all__ = ["SqlConnection"]
