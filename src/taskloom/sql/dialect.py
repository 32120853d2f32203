"""What differs between databases: rows as a table, bytes of a text, how an insert is spelled.

Everything that writes many rows does so in one statement over a *source*: a table made of the rows
handed in. On SQLite that is one JSON document taken apart by `json_each`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    CursorResult,
    Executable,
    LargeBinary,
    Table,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.dialects.sqlite import Insert as Upsert
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.sql import ColumnElement, Subquery
from sqlalchemy.types import NullType, TypeEngine

from taskloom.codec import encode
from taskloom.errors import ConfigurationError

__all__ = ["Source", "Upsert", "insert_into", "over_rows", "raw_bytes", "refuse_foreign"]

ROWS_AT_ONCE = 2_000
"""Rows of one statement: bounds the memory of a transaction that adds 100,000 children."""


class Source:
    """Rows handed to a statement, as a table with these columns in this order."""

    def __init__(self, **columns: TypeEngine[Any]) -> None:
        self._columns = columns

    def table(self) -> Subquery:
        """The rows bound as `rows` when the statement is executed."""
        each = func.json_each(bindparam("rows", type_=Text())).table_valued("value", name="j")
        extracted = [
            func.json_extract(each.c.value, literal_column(f"'$[{place}]'"), type_=kind).label(name)
            for place, (name, kind) in enumerate(self._columns.items())
        ]
        return select(*extracted).select_from(each).subquery("s")


def bound(rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """The parameters that a source takes its rows from."""
    return {"rows": encode(rows).decode()}


def over_rows(
    conn: Connection,
    statement: Callable[[], Executable],
    rows: Sequence[Sequence[Any]],
    **parameters: Any,
) -> Iterator[CursorResult[Any]]:
    """Execute `statement()` over `rows`, in pieces if they are many; one result for each piece.

    Lazy: the pieces are executed as the results are taken.
    """
    for start in range(0, len(rows), ROWS_AT_ONCE):
        piece = rows[start : start + ROWS_AT_ONCE]
        yield conn.execute(statement(), {**bound(piece), **parameters})


def insert_into(table: Table) -> Upsert:
    """An INSERT that knows ON CONFLICT."""
    return insert(table)


def raw_bytes(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A text as bytes, so that one damaged text cannot spoil the reading of its neighbours."""
    return type_coerce(cast(column, LargeBinary()), NullType())


def refuse_foreign(dialect: str) -> None:
    """Raise `ConfigurationError` unless the statements here are for this database."""
    if dialect != "sqlite":
        raise ConfigurationError(
            f"{dialect}: this version of Taskloom speaks to SQLite only. "
            "Use a URL such as sqlite:///taskloom.db"
        )
