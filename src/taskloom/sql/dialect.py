"""What differs between databases: rows as a table and a table as rows, bytes, inserts.

What writes many rows does so in one statement over a *source*: a table made of the rows handed in,
which is one JSON document that the database takes apart. What reads many rows in a hurry asks for
each column as one JSON array. On SQLite, because the driver gives the interpreter away and waits
to get it back for each single row that it binds or fetches; on PostgreSQL, because the driver
binds an array value by value: a document costs the event loop a fifth of that, and as much or less
in all (PostgreSQL 18, asyncpg 0.32).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import Any, ClassVar

from sqlalchemy import (
    CTE,
    Connection,
    CursorResult,
    Executable,
    Select,
    Table,
    Text,
    bindparam,
    case,
    func,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.dialects.sqlite.dml import OnConflictDoNothing, OnConflictDoUpdate
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ColumnElement, Subquery
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from taskloom.codec import decode, encode
from taskloom.errors import ConfigurationError

__all__ = [
    "Source",
    "among",
    "as_array",
    "execute_slowly",
    "has_row_locks",
    "insert_into",
    "insert_new",
    "joined",
    "listed",
    "lock_schema",
    "over_rows",
    "raw_bytes",
    "reads_changes",
    "refuse_foreign",
    "said_of",
    "tally_slot",
    "without_nul",
]

ROWS_AT_ONCE = 2_000
"""Rows of one statement: bounds the memory of a transaction that adds 100,000 children."""

_SLOTS = 16
_SCHEMA_LOCK = 0x7461736B6C6F6F6D  # "taskloom"
_A_DAY = 86_400.0

_LONGEST = 64 * 1024 * 1024
"""Characters of a document from which it is split; PostgreSQL holds 256 MB in one array."""

_ROWS_OF_AN_INSERT = (100, 10, 1)
"""How many rows one INSERT takes: few enough texts for the driver to keep them prepared."""


class _Spelled(FunctionElement[Any]):
    """An expression that each database spells in its own way: patterns around its arguments."""

    inherit_cache = True
    sqlite: ClassVar[str]
    postgresql: ClassVar[str]


@compiles(_Spelled, "sqlite")
def _on_sqlite(each: _Spelled, compiler: SQLCompiler, **kw: Any) -> str:
    return each.sqlite.format(*(compiler.process(part, **kw) for part in each.clauses))


@compiles(_Spelled, "postgresql")
def _on_postgresql(each: _Spelled, compiler: SQLCompiler, **kw: Any) -> str:
    return each.postgresql.format(*(compiler.process(part, **kw) for part in each.clauses))


class _Elements(_Spelled):
    inherit_cache = True
    sqlite = "json_each({0})"
    postgresql = "jsonb_array_elements(CAST({0} AS JSONB))"


class _Element(_Spelled):
    inherit_cache = True
    sqlite = "{0}"
    postgresql = "CAST({0} #>> '{{}}' AS {1})"


class _Item(_Spelled):
    inherit_cache = True
    sqlite = "json_extract({0}, '$[{1}]')"
    postgresql = "CAST({0} ->> {1} AS {2})"


class _AsArray(_Spelled):
    inherit_cache = True
    sqlite = "json_group_array({0})"
    postgresql = "coalesce(CAST(json_agg({0}) AS TEXT), '[]')"


class _Joined(_Spelled):
    inherit_cache = True
    sqlite = "CAST('[' || group_concat({0}, ',') || ']' AS BLOB)"
    postgresql = "convert_to('[' || string_agg({0}, ',') || ']', 'UTF8')"


class _RawBytes(_Spelled):
    inherit_cache = True
    sqlite = "CAST({0} AS BLOB)"
    postgresql = "convert_to({0}, 'UTF8')"


class _Among(_Spelled):
    inherit_cache = True
    sqlite = "{0} IN {1}"
    postgresql = "{0} = ANY (ARRAY{1})"


class _SaidOf(_Spelled):
    inherit_cache = True
    sqlite = "({1})"
    postgresql = "CASE WHEN {0} IS NOT NULL THEN {1} END"


@compiles(OnConflictDoNothing, "postgresql")
@compiles(OnConflictDoUpdate, "postgresql")
def _on_conflict(clause: Any, compiler: Any, **kw: Any) -> str:
    clause.constraint_target = None  # PostgreSQL's compiler asks for it (SQLAlchemy 2.1)
    text: str = getattr(compiler, f"visit_{clause.__visit_name__}")(clause, **kw)
    return text


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
        each = _elements("rows")
        items = [
            type_coerce(_Item(each.c.value, literal_column(str(place)), _sql(kind)), kind)
            for place, kind in enumerate(self._columns.values())
        ]
        named = (item.label(name) for item, name in zip(items, self.names, strict=True))
        return select(*named).select_from(each).subquery("s")


def _elements(name: str) -> Any:
    return _Elements(bindparam(name, type_=Text())).table_valued("value", name="j")


def _sql(kind: TypeEngine[Any]) -> ColumnElement[Any]:
    return literal_column(kind.compile())


def over_rows(
    conn: Connection,
    statement: Callable[[], Executable],
    rows: Sequence[Sequence[Any]],
    **parameters: Any,
) -> Iterator[CursorResult[Any]]:
    """Execute `statement()` over `rows`, in pieces if they are many; one result for each piece.

    Lazy: the pieces are executed as the results are taken. By the order of their first column
    everywhere, so that two writers with row locks do not wait for each other.
    """
    return _in_pieces(conn, statement, sorted(rows, key=_first), **parameters)


_first = itemgetter(0)


def _in_pieces(
    conn: Connection,
    statement: Callable[[], Executable],
    rows: Sequence[Sequence[Any]],
    **parameters: Any,
) -> Iterator[CursorResult[Any]]:
    for document, _ in _documents(rows):
        yield conn.execute(statement(), {"rows": document, **parameters})


def _documents(rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, Sequence[Sequence[Any]]]]:
    """`rows` as documents, each with the part that it holds."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield from _short(rows[start : start + ROWS_AT_ONCE])


def _short(rows: Sequence[Sequence[Any]]) -> Iterator[tuple[str, Sequence[Sequence[Any]]]]:
    document = encode(rows).decode()
    if len(document) <= _LONGEST or len(rows) == 1:
        yield document, rows
        return
    half = len(rows) // 2
    yield from _short(rows[:half])
    yield from _short(rows[half:])


def insert_into(table: Table) -> Insert:
    """An INSERT that knows ON CONFLICT: SQLite's, which PostgreSQL spells alike.

    The other way round every process on SQLite would load PostgreSQL's dialect: 0.1 s and more.
    """
    return insert(table)


def insert_new(
    conn: Connection, table: Table, source: Source, rows: Sequence[Sequence[Any]]
) -> set[str]:
    """Insert `rows`, the first column of which is unique; its values that were new.

    They are numbered as they come. Rows that are known stay as they are.
    """
    if conn.dialect.name == "sqlite":
        return _insert_values(conn, table, source.names, rows)
    new: set[str] = set()
    for document, part in _documents(rows):
        said = {"rows": document, "all": len(part)}
        count, firsts = conn.execute(_insert_source(table, source), said).one()
        new.update((row[0] for row in part) if count == len(part) else decode(firsts))
    return new


@cache
def _insert_source(table: Table, source: Source) -> Executable:
    first, *_ = source.names
    (serial,) = table.primary_key
    number: ColumnElement[int] = literal_column(f"nextval('{table.name}_{serial.name}_seq')")
    # Numbered before they are sorted; sorted because two that insert the same rows would otherwise
    # wait for each other.
    rows = select(number.label(serial.name), *source.table().c).subquery("n")
    in_order = select(*rows.c).order_by(rows.c[first].collate("C"))
    statement = insert_into(table).from_select([serial.name, *source.names], in_order)
    new = statement.on_conflict_do_nothing(index_elements=[first]).returning(table.c[first])
    return _which(new.cte("new"))


def _which(new: CTE) -> Select[Any]:
    """How many rows a statement has returned; and a JSON array of them, unless it was `all`."""
    count = func.count()
    (first,) = new.c
    return select(count, case((count < bindparam("all"), as_array(first)))).select_from(new)


def _insert_values(
    conn: Connection, table: Table, names: Sequence[str], rows: Sequence[Sequence[Any]]
) -> set[str]:
    """On SQLite twice as fast as an insert from a source."""
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
    return type_coerce(_AsArray(column), Text())


def joined(column: ColumnElement[str]) -> ColumnElement[Any]:
    """All texts of a column, each of them JSON, as the bytes of one JSON array.

    NULL without rows; no JSON if one of the texts is none. In the order of `as_array` beside it.
    """
    return _Joined(column)


def listed(name: str, kind: TypeEngine[Any]) -> Select[Any]:
    """What a JSON array bound as `name` holds, as a column `item`, in the array's order."""
    each = _elements(name)
    return select(type_coerce(_Element(each.c.value, _sql(kind)), kind).label("item"))


def among(column: ColumnElement[Any], found: Select[Any]) -> ColumnElement[bool]:
    """Whether a column's value is one of those `found`, which are looked up once.

    With IN, PostgreSQL may look again for each row: of a LIMIT with locks, more come of it.
    """
    return _Among(column, found.scalar_subquery())


def raw_bytes(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A text as bytes, so that one damaged text cannot spoil the reading of its neighbours."""
    return _RawBytes(column)


def said_of(key: ColumnElement[Any], condition: ColumnElement[bool]) -> ColumnElement[Any]:
    """A condition on rows that are looked up by a source's `key`, never to look them up by.

    PostgreSQL plans without knowing how many rows a source has, and keeps the plan as the table
    grows: a condition that looks rare lets it read all of the table, or all leases, and the source
    for each of those. Said of pairs, it is asked of what was found.
    """
    return _SaidOf(key, condition)


def without_nul(text: str) -> str:
    """A text for people that every database can hold: PostgreSQL's know no NUL."""
    return text.replace("\0", "\\0")


def has_row_locks(conn: Connection) -> bool:
    """Whether others write beside this transaction, so that locks can cross."""
    return conn.dialect.name != "sqlite"


def reads_changes(conn: Connection) -> bool:
    """Whether a WITH may change rows, so that one statement reads and changes them."""
    return conn.dialect.name != "sqlite"


def tally_slot(conn: Connection) -> int:
    """Which of the rows that share a sum this process adds to; one is enough for one writer."""
    return 0 if conn.dialect.name == "sqlite" else os.getpid() % _SLOTS


def lock_schema(conn: Connection) -> None:
    """Let nobody else create tables in this transaction; on SQLite it holds the file anyway."""
    if conn.dialect.name == "postgresql":
        conn.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))


def execute_slowly(conn: Connection, statement: str) -> None:
    """A statement that may take longer than the driver waits for others."""
    if conn.dialect.name == "postgresql":
        driver: Any = conn.connection.dbapi_connection
        driver.run_async(lambda own: own.execute(statement, timeout=_A_DAY))
    else:
        conn.exec_driver_sql(statement)


def refuse_foreign(dialect: str) -> None:
    """Raise `ConfigurationError` unless the statements here are for this database."""
    if dialect not in ("sqlite", "postgresql"):
        raise ConfigurationError(
            f"{dialect}: this version of Taskloom speaks to SQLite and PostgreSQL. "
            "Use a URL such as sqlite:///taskloom.db or postgresql://user@host/database"
        )
