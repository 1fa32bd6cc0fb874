"""The tasks that the embedded grid knows."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, fields
from typing import Any

from airflow_provider_panda.local.state import TaskState
from airflow_provider_panda.local.store.database import Database, assignments, marks

SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    task_id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL, owner TEXT NOT NULL, nickname TEXT NOT NULL,
    vo TEXT, label TEXT, processing_type TEXT, working_group TEXT, cloud TEXT, site TEXT,
    req_id INTEGER, parent_id INTEGER, priority INTEGER NOT NULL DEFAULT 1000, task_type TEXT,
    state TEXT NOT NULL, old_state TEXT, error_dialog TEXT, params TEXT NOT NULL, queue TEXT,
    created REAL NOT NULL, modified REAL NOT NULL, started REAL, ended REAL, state_changed REAL NOT NULL,
    due REAL, commanded_by TEXT, soft INTEGER NOT NULL DEFAULT 0,
    n_inputs INTEGER NOT NULL DEFAULT 0, n_finished INTEGER NOT NULL DEFAULT 0, n_failed INTEGER NOT NULL DEFAULT 0,
    open_jobs INTEGER NOT NULL DEFAULT 0, next_serial INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX IF NOT EXISTS tasks_due ON tasks(due) WHERE due IS NOT NULL;
CREATE INDEX IF NOT EXISTS tasks_name ON tasks(name);
CREATE INDEX IF NOT EXISTS tasks_type ON tasks(processing_type, state);
CREATE INDEX IF NOT EXISTS tasks_owner ON tasks(owner, modified);
CREATE INDEX IF NOT EXISTS tasks_request ON tasks(req_id);
CREATE INDEX IF NOT EXISTS tasks_parent ON tasks(parent_id);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """One row of ``tasks``; times are Unix times in seconds. ``params`` is JSON text."""

    task_id: int
    name: str
    owner: str
    nickname: str
    vo: str | None
    label: str | None
    processing_type: str | None
    working_group: str | None
    cloud: str | None
    site: str | None
    req_id: int | None
    parent_id: int | None
    priority: int
    task_type: str | None
    state: TaskState
    old_state: str | None
    error_dialog: str | None
    params: str
    queue: str | None
    created: float
    modified: float
    started: float | None
    ended: float | None
    state_changed: float
    due: float | None
    commanded_by: str | None
    soft: int
    n_inputs: int
    n_finished: int
    n_failed: int
    open_jobs: int
    next_serial: int

    @property
    def known(self) -> bool:
        """Whether JEDI knows the task yet."""
        return self.state is not TaskState.WAITING


TASK_COLUMNS = frozenset(f.name for f in fields(TaskRow))


def _task(row: sqlite3.Row) -> TaskRow:
    return TaskRow(**{**dict(row), "state": TaskState(row["state"])})


class TaskTable:
    """The table ``tasks``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def insert(self, **columns: Any) -> int:
        """Insert a task and return its jediTaskID; without ``req_id`` and ``parent_id`` it becomes both itself."""
        names = list(columns)
        assignments(names, TASK_COLUMNS)
        task_id = self._db.insert(
            f"INSERT INTO tasks ({', '.join(names)}) VALUES ({marks(names)})",  # noqa: S608 - checked names
            list(columns.values()),
        )
        self._db.write(
            "UPDATE tasks SET req_id = coalesce(req_id, task_id), parent_id = coalesce(parent_id, task_id)"
            " WHERE task_id = ?",
            (task_id,),
        )
        return task_id

    def update(self, task_id: int, **columns: Any) -> None:
        """Set columns of a task."""
        self._db.write(
            f"UPDATE tasks SET {assignments(columns, TASK_COLUMNS)} WHERE task_id = ?",  # noqa: S608 - names checked, values by placeholders
            [*columns.values(), task_id],
        )

    def get(self, task_id: int) -> TaskRow | None:
        """Return a task, or None."""
        row = self._db.read("SELECT * FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
        return _task(row) if row else None

    def existing(self, task_id: int) -> TaskRow:
        """Return a task that another row refers to.

        :raises LookupError: there is none.
        """
        task = self.get(task_id)
        if task is None:
            raise LookupError(f"the grid's database has no task {task_id}")
        return task

    def state(self, task_id: int) -> TaskState:
        """Return the state of a task that exists."""
        row = self._db.read("SELECT state FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
        return TaskState(row[0])

    def by_name(self, name: str, owner: str) -> TaskRow | None:
        """Return the newest task of this name and owner, or None."""
        row = self._db.read(
            "SELECT * FROM tasks WHERE name = ? AND owner = ? ORDER BY task_id DESC LIMIT 1", (name, owner)
        ).fetchone()
        return _task(row) if row else None

    def select(
        self, *, equal: dict[str, Any], since: float | None = None, above: int | None = None, limit: int = 500
    ) -> list[TaskRow]:
        """Return the tasks whose columns equal the given values, by jediTaskID.

        :param equal: column names and values, compared as text.
        :param since: earliest modification, Unix time.
        :param above: only tasks with a greater jediTaskID.
        :param limit: at most so many, the newest.
        """
        unknown = set(equal) - TASK_COLUMNS
        if unknown:
            raise KeyError(f"no such column: {sorted(unknown)}")
        conditions, values = ["state != 'waiting'"], []
        for column, value in equal.items():
            conditions.append(f"{column} = ?")  # column affinity converts numbers given as text
            values.append(value)
        if since is not None:
            conditions.append("modified >= ?")
            values.append(since)
        if above is not None:
            conditions.append("task_id > ?")
            values.append(above)
        rows = self._db.read(
            f"SELECT * FROM tasks WHERE {' AND '.join(conditions)} ORDER BY task_id DESC LIMIT ?",  # noqa: S608 - names checked, values by placeholders
            [*values, limit],
        ).fetchall()
        return [_task(row) for row in reversed(rows)]

    def newest(self, limit: int) -> list[TaskRow]:
        """Return the newest tasks, newest first."""
        return [_task(r) for r in self._db.read("SELECT * FROM tasks ORDER BY task_id DESC LIMIT ?", (limit,))]

    def due(self, now: float, limit: int = 200) -> list[TaskRow]:
        """Return the tasks whose next step is due."""
        rows = self._db.read(
            "SELECT * FROM tasks WHERE due IS NOT NULL AND due <= ? ORDER BY due LIMIT ?", (now, limit)
        )
        return [_task(row) for row in rows.fetchall()]

    def wake_children(self, parent_id: int, now: float) -> int:
        """Make the tasks due that are held until their parent ends, and return how many these are."""
        return self._db.write(
            "UPDATE tasks SET due = ? WHERE parent_id = ? AND task_id != ? AND state = 'pending' AND n_inputs = 0",
            (now, parent_id, parent_id),
        ).rowcount

    def count(self) -> dict[str, int]:
        """Return how many tasks are in each state."""
        return dict(self._db.read("SELECT state, count(*) FROM tasks GROUP BY state").fetchall())

    def add(self, task_id: int, *, finished: int = 0, failed: int = 0, open_jobs: int = 0, serials: int = 0) -> TaskRow:
        """Add to the counters of a task and return it."""
        self._db.write(
            "UPDATE tasks SET n_finished = n_finished + ?, n_failed = n_failed + ?, open_jobs = open_jobs + ?,"
            " next_serial = next_serial + ? WHERE task_id = ?",
            (finished, failed, open_jobs, serials, task_id),
        )
        return self.existing(task_id)

    def next_due(self) -> float | None:
        """Return the earliest time at which a task is due."""
        due: float | None = self._db.read("SELECT min(due) FROM tasks WHERE due IS NOT NULL").fetchone()[0]
        return due
