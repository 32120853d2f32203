"""What differs between databases: rows as a table and a table as rows, bytes, inserts.

What writes many rows does so in one statement over a *source*: a table made of the rows handed in.
On SQLite that is one JSON document taken apart by `json_each`. What reads many rows in a hurry
asks for each column as one JSON array. Both for the same reason, besides speed: the driver gives
the interpreter away and waits to get it back for each single row that it binds or fetches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any

from sqlalchemy import (
    Connection,
    CursorResult,
    Executable,
    LargeBinary,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.sql import ColumnElement, Subquery
from sqlalchemy.types import NullType, TypeEngine

from taskloom.codec import encode
from taskloom.errors import ConfigurationError

__all__ = [
    "Source",
    "as_array",
    "insert_into",
    "insert_new",
    "joined",
    "listed",
    "over_rows",
    "raw_bytes",
    "refuse_foreign",
]

ROWS_AT_ONCE = 2_000
"""Rows of one statement: bounds the memory of a transaction that adds 100,000 children."""

_ROWS_OF_AN_INSERT = (100, 10, 1)
"""How many rows one INSERT takes: few enough texts for the driver to keep them prepared."""


class Source:
    """Rows handed to a statement, as a table with these columns in this order."""

    def __init__(self, **columns: TypeEngine[Any]) -> None:
        self._columns = columns

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in order."""
        return tuple(self._columns)

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


def insert_into(table: Table) -> Insert:
    """An INSERT that knows ON CONFLICT."""
    return insert(table)


def insert_new(
    conn: Connection, table: Table, rows: Sequence[Sequence[Any]], names: Sequence[str]
) -> set[str]:
    """Insert `rows`, the columns `names`, the first of which is unique; its values that were new.

    Rows that are known stay as they are. Twice as fast as an insert from a source.
    """
    new = start = 0
    for size in _ROWS_OF_AN_INSERT:
        text = _insert_text(table, tuple(names), size)
        while start + size <= len(rows):
            values = tuple(chain.from_iterable(rows[start : start + size]))
            new += conn.exec_driver_sql(text, values).rowcount
            start += size
    if new == len(rows):
        return {row[0] for row in rows}
    # Nobody else writes meanwhile, and rows are numbered upwards: the last ones are the new ones.
    (serial,) = table.primary_key
    last = select(table.c[names[0]]).order_by(serial.desc()).limit(new)
    return set(conn.scalars(last))


@cache
def _insert_text(table: Table, names: tuple[str, ...], rows: int) -> str:
    row = f"({', '.join('?' * len(names))})"
    return (
        f"INSERT INTO {table.name} ({', '.join(names)}) VALUES {', '.join([row] * rows)} "
        f"ON CONFLICT ({names[0]}) DO NOTHING"
    )


def as_array(column: ColumnElement[Any]) -> ColumnElement[str]:
    """All numbers or texts of a column, as the text of one JSON array."""
    return func.json_group_array(column, type_=Text())


def joined(column: ColumnElement[str]) -> ColumnElement[Any]:
    """All texts of a column, each of them JSON, as the bytes of one JSON array.

    NULL without rows; no JSON if one of the texts is none. In the order of `as_array` beside it.
    """
    return raw_bytes("[" + func.group_concat(column, ",", type_=Text()) + "]")


def listed(name: str) -> Select[Any]:
    """What a JSON array bound as `name` holds, for IN."""
    each = func.json_each(bindparam(name, type_=Text())).table_valued("value", name="j")
    return select(each.c.value)


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
