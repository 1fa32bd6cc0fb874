"""The datasets of tasks: names that inputs and outputs are listed under."""

from __future__ import annotations

from airflow_provider_panda.local.store.database import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS datasets (
    id INTEGER PRIMARY KEY AUTOINCREMENT, task_id INTEGER NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS datasets_task ON datasets(task_id);
"""


class DatasetTable:
    """The table ``datasets``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def insert(self, task_id: int, name: str, kind: str) -> int:
        """Insert a dataset and return its id."""
        return self._db.insert("INSERT INTO datasets (task_id, name, kind) VALUES (?, ?, ?)", (task_id, name, kind))

    def of(self, task_id: int) -> list[tuple[int, str, str]]:
        """Return id, name and kind of the datasets of a task."""
        rows = self._db.read("SELECT id, name, kind FROM datasets WHERE task_id = ? ORDER BY id", (task_id,))
        return [tuple(row) for row in rows.fetchall()]
