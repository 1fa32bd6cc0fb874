"""The SQLite file itself: its connection and its transactions, and how values become SQL.

Calls are short and made from the event loop's thread only. Every change is inside a transaction that
:meth:`Database.commit` ends; with WAL and synchronous=NORMAL a commit does not wait for the disk, and a killed
process loses nothing that was committed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class Database:
    """The connection to the grid's SQLite file.

    :param schemas: statements that make tables and indexes where there are none yet.
    """

    def __init__(self, path: Path, schemas: Iterable[str]) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=10)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA cache_size=-32000")
        self._db.executescript("".join(schemas))

    def close(self) -> None:
        """Commit and close."""
        self.commit()
        self._db.close()

    def commit(self) -> None:
        """End the open transaction, if there is one."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    def rollback(self) -> None:
        """Forget what changed since the last commit."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def read(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement that changes nothing."""
        return self._db.execute(sql, values)

    def write(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement in the open transaction, or in a new one."""
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        return self._db.execute(sql, values)

    def insert(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run an INSERT of one row as :meth:`write` does, and return the row's id.

        :raises sqlite3.DatabaseError: the statement inserted nothing.
        """
        row_id = self.write(sql, values).lastrowid
        if row_id is None:
            raise sqlite3.DatabaseError("nothing was inserted")
        return row_id

    def write_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row in the open transaction, or in a new one."""
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(sql, rows)


def marks(values: Sequence[Any]) -> str:
    """Return the placeholders of a list of values."""
    return ",".join("?" * len(values))


def assignments(columns: Iterable[str], allowed: frozenset[str]) -> str:
    """Return the assignments of an UPDATE.

    :raises KeyError: a column is not among the allowed ones.
    """
    names = list(columns)
    unknown = set(names) - allowed
    if unknown:
        raise KeyError(f"no such column: {sorted(unknown)}")
    return ", ".join(f"{name} = ?" for name in names)


def as_json(value: Any) -> str:
    """Return JSON text without blanks."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
