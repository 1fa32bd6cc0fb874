"""What the embedded grid knows, in one SQLite file; the only place with SQL.

Calls are short and made from the event loop's thread only. Every change is inside a transaction that
:meth:`Store.commit` ends; with WAL and synchronous=NORMAL a commit does not wait for the disk, and a killed
process loses nothing that was committed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from airflow_provider_panda.local.state import (
    JOB_TERMINAL,
    JOB_WITH_PILOT,
    TASK_TERMINAL,
    InputState,
    JobState,
    TaskState,
)

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
CREATE TABLE IF NOT EXISTS inputs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id INTEGER NOT NULL, dataset_id INTEGER NOT NULL, chunk INTEGER NOT NULL, lfn TEXT NOT NULL,
    state TEXT NOT NULL, attempt INTEGER NOT NULL DEFAULT 0, max_attempt INTEGER NOT NULL, panda_id INTEGER,
    assigned INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS inputs_chunk ON inputs(task_id, chunk);
CREATE INDEX IF NOT EXISTS inputs_state ON inputs(task_id, state);
CREATE INDEX IF NOT EXISTS inputs_unassigned ON inputs(task_id, chunk) WHERE assigned = 0;
CREATE TABLE IF NOT EXISTS datasets (
    id INTEGER PRIMARY KEY AUTOINCREMENT, task_id INTEGER NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS datasets_task ON datasets(task_id);
CREATE TABLE IF NOT EXISTS jobs (
    panda_id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id INTEGER NOT NULL, chunk INTEGER NOT NULL, attempt INTEGER NOT NULL, serial INTEGER NOT NULL,
    state TEXT NOT NULL, sub_state TEXT, label TEXT, queue TEXT, host TEXT, pilot TEXT, pid INTEGER, pid_started REAL,
    parameters TEXT NOT NULL, files TEXT NOT NULL,
    created REAL NOT NULL, modified REAL NOT NULL, state_changed REAL NOT NULL, started REAL, ended REAL, due REAL,
    outcome TEXT, command TEXT, metadata TEXT, cpu_seconds INTEGER,
    trans_exit_code TEXT, pilot_error_code INTEGER NOT NULL DEFAULT 0, pilot_error_diag TEXT,
    exe_error_code INTEGER NOT NULL DEFAULT 0, exe_error_diag TEXT,
    ddm_error_code INTEGER NOT NULL DEFAULT 0, ddm_error_diag TEXT,
    dispatcher_error_code INTEGER NOT NULL DEFAULT 0, dispatcher_error_diag TEXT,
    buffer_error_code INTEGER NOT NULL DEFAULT 0, buffer_error_diag TEXT
);
CREATE INDEX IF NOT EXISTS jobs_state ON jobs(state, due, panda_id);
CREATE INDEX IF NOT EXISTS jobs_task ON jobs(task_id, state);
CREATE INDEX IF NOT EXISTS jobs_chunk ON jobs(task_id, chunk);
CREATE TABLE IF NOT EXISTS secrets (
    owner TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (owner, key)
);
CREATE TABLE IF NOT EXISTS cache_files (
    name TEXT PRIMARY KEY, owner TEXT NOT NULL, size INTEGER NOT NULL, checksum INTEGER NOT NULL, touched REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS cache_content ON cache_files(size, checksum);
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


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One row of ``jobs``, that is one attempt; times are Unix times in seconds."""

    panda_id: int
    task_id: int
    chunk: int
    attempt: int
    serial: int
    state: JobState
    sub_state: str | None
    label: str | None
    queue: str | None
    host: str | None
    pilot: str | None
    pid: int | None
    pid_started: float | None
    parameters: str
    files: str
    created: float
    modified: float
    state_changed: float
    started: float | None
    ended: float | None
    due: float | None
    outcome: str | None
    command: str | None
    metadata: str | None
    cpu_seconds: int | None
    trans_exit_code: str | None
    pilot_error_code: int
    pilot_error_diag: str | None
    exe_error_code: int
    exe_error_diag: str | None
    ddm_error_code: int
    ddm_error_diag: str | None
    dispatcher_error_code: int
    dispatcher_error_diag: str | None
    buffer_error_code: int
    buffer_error_diag: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRow:
    """One input of a task."""

    id: int
    task_id: int
    dataset_id: int
    chunk: int
    lfn: str
    state: InputState
    attempt: int
    max_attempt: int
    panda_id: int | None
    assigned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to insert, in state pending."""

    task_id: int
    chunk: int
    attempt: int
    serial: int
    label: str | None
    queue: str
    parameters: str
    files: str
    due: float


TASK_COLUMNS = frozenset(f.name for f in fields(TaskRow))
JOB_COLUMNS = frozenset(f.name for f in fields(JobRow))


def _task(row: sqlite3.Row) -> TaskRow:
    return TaskRow(**{**dict(row), "state": TaskState(row["state"])})


def _job(row: sqlite3.Row) -> JobRow:
    return JobRow(**{**dict(row), "state": JobState(row["state"])})


def _input(row: sqlite3.Row) -> InputRow:
    return InputRow(**{**dict(row), "state": InputState(row["state"])})


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))


def _assignments(columns: Iterable[str], allowed: frozenset[str]) -> str:
    names = list(columns)
    unknown = set(names) - allowed
    if unknown:
        raise KeyError(f"no such column: {sorted(unknown)}")
    return ", ".join(f"{name} = ?" for name in names)


class Store:
    """The grid's SQLite file."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=10)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA cache_size=-32000")
        self._db.executescript(SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def _write(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        return self._db.execute(sql, values)

    def _write_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(sql, rows)

    # --- tasks ----------------------------------------------------------------------------------------------

    def insert_task(self, **columns: Any) -> int:
        """Insert a task and return its jediTaskID; without ``req_id`` and ``parent_id`` it becomes both itself."""
        names = list(columns)
        _assignments(names, TASK_COLUMNS)
        cursor = self._write(
            f"INSERT INTO tasks ({', '.join(names)}) VALUES ({_marks(names)})",  # noqa: S608 - checked names
            list(columns.values()),
        )
        task_id = cursor.lastrowid
        assert task_id is not None
        self._write(
            "UPDATE tasks SET req_id = coalesce(req_id, task_id), parent_id = coalesce(parent_id, task_id)"
            " WHERE task_id = ?",
            (task_id,),
        )
        return task_id

    def update_task(self, task_id: int, **columns: Any) -> None:
        """Set columns of a task."""
        self._write(
            f"UPDATE tasks SET {_assignments(columns, TASK_COLUMNS)} WHERE task_id = ?",  # noqa: S608
            [*columns.values(), task_id],
        )

    def task(self, task_id: int) -> TaskRow | None:
        """Return a task, or None."""
        row = self._db.execute("SELECT * FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
        return _task(row) if row else None

    def task_state(self, task_id: int) -> TaskState:
        """Return the state of a task that exists."""
        row = self._db.execute("SELECT state FROM tasks WHERE task_id = ?", (task_id,)).fetchone()
        return TaskState(row[0])

    def task_by_name(self, name: str, owner: str) -> TaskRow | None:
        """Return the newest task of this name and owner, or None."""
        row = self._db.execute(
            "SELECT * FROM tasks WHERE name = ? AND owner = ? ORDER BY task_id DESC LIMIT 1", (name, owner)
        ).fetchone()
        return _task(row) if row else None

    def tasks(
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
        rows = self._db.execute(
            f"SELECT * FROM tasks WHERE {' AND '.join(conditions)} ORDER BY task_id DESC LIMIT ?",  # noqa: S608
            [*values, limit],
        ).fetchall()
        return [_task(row) for row in reversed(rows)]

    def newest_tasks(self, limit: int) -> list[TaskRow]:
        """Return the newest tasks, newest first."""
        return [_task(r) for r in self._db.execute("SELECT * FROM tasks ORDER BY task_id DESC LIMIT ?", (limit,))]

    def due_tasks(self, now: float, limit: int = 200) -> list[TaskRow]:
        """Return the tasks whose next step is due."""
        rows = self._db.execute(
            "SELECT * FROM tasks WHERE due IS NOT NULL AND due <= ? ORDER BY due LIMIT ?", (now, limit)
        )
        return [_task(row) for row in rows.fetchall()]

    def count_tasks(self) -> dict[str, int]:
        """Return how many tasks are in each state."""
        return dict(self._db.execute("SELECT state, count(*) FROM tasks GROUP BY state").fetchall())

    def add_to_task(
        self, task_id: int, *, finished: int = 0, failed: int = 0, open_jobs: int = 0, serials: int = 0
    ) -> TaskRow:
        """Add to the counters of a task and return it."""
        self._write(
            "UPDATE tasks SET n_finished = n_finished + ?, n_failed = n_failed + ?, open_jobs = open_jobs + ?,"
            " next_serial = next_serial + ? WHERE task_id = ?",
            (finished, failed, open_jobs, serials, task_id),
        )
        task = self.task(task_id)
        assert task is not None
        return task

    # --- datasets and inputs --------------------------------------------------------------------------------

    def insert_dataset(self, task_id: int, name: str, kind: str) -> int:
        """Insert a dataset and return its id."""
        cursor = self._write("INSERT INTO datasets (task_id, name, kind) VALUES (?, ?, ?)", (task_id, name, kind))
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def datasets(self, task_id: int) -> list[tuple[int, str, str]]:
        """Return id, name and kind of the datasets of a task."""
        rows = self._db.execute("SELECT id, name, kind FROM datasets WHERE task_id = ? ORDER BY id", (task_id,))
        return [tuple(row) for row in rows.fetchall()]

    def insert_inputs(
        self,
        task_id: int,
        dataset_id: int,
        lfns: Sequence[str],
        *,
        per_job: int,
        max_attempt: int,
        first_chunk: int = 0,
    ) -> None:
        """Insert the inputs of a task; ``per_job`` of them make one chunk, that is one job."""
        self._write_many(
            "INSERT INTO inputs (task_id, dataset_id, chunk, lfn, state, max_attempt) VALUES (?, ?, ?, ?, 'ready', ?)",
            ((task_id, dataset_id, first_chunk + index // per_job, lfn, max_attempt) for index, lfn in enumerate(lfns)),
        )

    def inputs(self, task_id: int, chunk: int | None = None) -> list[InputRow]:
        """Return the inputs of a task, or of one of its chunks."""
        if chunk is None:
            rows = self._db.execute("SELECT * FROM inputs WHERE task_id = ? ORDER BY id", (task_id,))
        else:
            rows = self._db.execute(
                "SELECT * FROM inputs WHERE task_id = ? AND chunk = ? ORDER BY id", (task_id, chunk)
            )
        return [_input(row) for row in rows.fetchall()]

    def set_inputs(self, task_id: int, chunk: int, state: InputState) -> None:
        """Set the state of a chunk's inputs."""
        self._write("UPDATE inputs SET state = ? WHERE task_id = ? AND chunk = ?", (state, task_id, chunk))

    def release_inputs(self, task_id: int, chunk: int) -> None:
        """Make a chunk's inputs ready for a job that a later retry makes."""
        self._write("UPDATE inputs SET state = 'ready', assigned = 0 WHERE task_id = ? AND chunk = ?", (task_id, chunk))

    def revive_inputs(self, task_id: int, *, more_attempts: int) -> int:
        """Make the unfinished inputs of a task ready again, with more attempts, and return how many had failed."""
        return self._write(
            "UPDATE inputs SET state = 'ready', assigned = 0, max_attempt = max_attempt + ?"
            " WHERE task_id = ? AND state = 'failed'",
            (more_attempts, task_id),
        ).rowcount

    def add_attempts(self, task_id: int, increase: int) -> None:
        """Allow more attempts of the unfinished inputs of a task."""
        self._write(
            "UPDATE inputs SET max_attempt = max_attempt + ? WHERE task_id = ? AND state != 'finished'",
            (increase, task_id),
        )

    def unassigned_chunks(self, task_id: int, limit: int) -> list[list[InputRow]]:
        """Return the inputs of chunks that no job has or had for good, chunk by chunk."""
        chunks = self._db.execute(
            "SELECT DISTINCT chunk FROM inputs WHERE task_id = ? AND assigned = 0 ORDER BY chunk LIMIT ?",
            (task_id, limit),
        ).fetchall()
        if not chunks:
            return []
        rows = self._db.execute(
            "SELECT * FROM inputs WHERE task_id = ? AND assigned = 0 AND chunk BETWEEN ? AND ? ORDER BY chunk, id",
            (task_id, chunks[0][0], chunks[-1][0]),
        )
        grouped: dict[int, list[InputRow]] = {}
        for row in rows.fetchall():
            grouped.setdefault(row["chunk"], []).append(_input(row))
        return list(grouped.values())

    def input_counts(self, task_id: int) -> list[tuple[str, int]]:
        """Return how many inputs of a task are in each state."""
        rows = self._db.execute("SELECT state, count(*) FROM inputs WHERE task_id = ? GROUP BY state", (task_id,))
        return [tuple(row) for row in rows.fetchall()]

    def last_attempts(self, task_id: int) -> list[int]:
        """Return the PandaIDs that had the inputs of a task last."""
        rows = self._db.execute(
            "SELECT DISTINCT panda_id FROM inputs WHERE task_id = ? AND panda_id IS NOT NULL ORDER BY panda_id",
            (task_id,),
        )
        return [row[0] for row in rows.fetchall()]

    # --- jobs -----------------------------------------------------------------------------------------------

    def insert_job(self, job: NewJob, now: float) -> int:
        """Insert a job and give it its inputs; return its PandaID."""
        cursor = self._write(
            "INSERT INTO jobs (task_id, chunk, attempt, serial, state, label, queue, parameters, files, created,"
            " modified, state_changed, due) VALUES (?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                job.task_id,
                job.chunk,
                job.attempt,
                job.serial,
                job.label,
                job.queue,
                job.parameters,
                job.files,
                now,
                now,
                now,
                job.due,
            ),
        )
        panda_id = cursor.lastrowid
        assert panda_id is not None
        self._write(
            "UPDATE inputs SET state = 'ready', panda_id = ?, attempt = ?, assigned = 1"
            " WHERE task_id = ? AND chunk = ?",
            (panda_id, job.attempt, job.task_id, job.chunk),
        )
        return panda_id

    def update_job(self, panda_id: int, **columns: Any) -> None:
        """Set columns of a job."""
        self._write(
            f"UPDATE jobs SET {_assignments(columns, JOB_COLUMNS)} WHERE panda_id = ?",  # noqa: S608
            [*columns.values(), panda_id],
        )

    def job(self, panda_id: int) -> JobRow | None:
        """Return a job, or None."""
        row = self._db.execute("SELECT * FROM jobs WHERE panda_id = ?", (panda_id,)).fetchone()
        return _job(row) if row else None

    def jobs_of(
        self, task_id: int, states: Iterable[JobState] | None = None, *, limit: int = -1, newest: bool = False
    ) -> list[JobRow]:
        """Return the jobs of a task, by PandaID, in any or in the given states."""
        order = "DESC" if newest else "ASC"
        chosen = list(states) if states is not None else None
        where = f" AND state IN ({_marks(chosen)})" if chosen is not None else ""
        rows = self._db.execute(
            f"SELECT * FROM jobs WHERE task_id = ?{where} ORDER BY panda_id {order} LIMIT ?",  # noqa: S608
            [task_id, *(chosen or []), limit],
        )
        return [_job(row) for row in rows.fetchall()]

    def job_ids_of(self, task_id: int) -> list[int]:
        """Return the PandaIDs of all attempts of a task."""
        return [r[0] for r in self._db.execute("SELECT panda_id FROM jobs WHERE task_id = ? ORDER BY 1", (task_id,))]

    def job_counts(self, task_id: int) -> dict[str, int]:
        """Return how many jobs of a task are in each state."""
        rows = self._db.execute("SELECT state, count(*) FROM jobs WHERE task_id = ? GROUP BY state", (task_id,))
        return dict(rows.fetchall())

    def metadata_of(self, task_id: int) -> list[tuple[int, str]]:
        """Return PandaID and report of the finished jobs of a task that left one."""
        rows = self._db.execute(
            "SELECT panda_id, metadata FROM jobs WHERE task_id = ? AND state = 'finished' AND metadata IS NOT NULL",
            (task_id,),
        )
        return [tuple(row) for row in rows.fetchall()]

    def due_jobs(self, state: JobState, now: float, limit: int = 500) -> list[JobRow]:
        """Return the jobs in a state whose time has come, oldest first."""
        rows = self._db.execute(
            "SELECT * FROM jobs WHERE state = ? AND due IS NOT NULL AND due <= ? ORDER BY due, panda_id LIMIT ?",
            (state, now, limit),
        )
        return [_job(row) for row in rows.fetchall()]

    def activated_jobs(
        self, now: float, *, limit: int, queue: str | None = None, owner: str | None = None, task_id: int | None = None
    ) -> list[JobRow]:
        """Return the jobs that a pilot may take now, longest waiting first."""
        conditions: list[str] = ["state = 'activated'", "due <= ?"]
        values: list[Any] = [now]
        for condition, value in (
            ("queue = ?", queue),
            ("task_id = ?", task_id),
            ("label = 'user' AND task_id IN (SELECT task_id FROM tasks WHERE owner = ?)", owner),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        rows = self._db.execute(
            "SELECT * FROM jobs INDEXED BY jobs_state"  # noqa: S608 - fixed text
            f" WHERE {' AND '.join(conditions)} ORDER BY due, panda_id LIMIT ?",
            [*values, limit],
        )
        return [_job(row) for row in rows.fetchall()]

    def jobs_with_pilot(self, pilot: str) -> list[JobRow]:
        """Return the jobs that a pilot of this name has."""
        states = [s.value for s in JOB_WITH_PILOT]
        rows = self._db.execute(
            f"SELECT * FROM jobs WHERE state IN ({_marks(states)}) AND pilot = ?",  # noqa: S608
            [*states, pilot],
        )
        return [_job(row) for row in rows.fetchall()]

    def next_due(self, *, with_activated: bool) -> float | None:
        """Return the earliest time at which something is due.

        :param with_activated: whether a waiting job counts, that is whether a slot is free.
        """
        times = [self._db.execute("SELECT min(due) FROM tasks WHERE due IS NOT NULL").fetchone()[0]]
        states = [JobState.PENDING, JobState.HOLDING, *JOB_WITH_PILOT]
        if with_activated:
            states.append(JobState.ACTIVATED)
        for state in states:
            times.append(
                self._db.execute(
                    "SELECT due FROM jobs WHERE state = ? AND due IS NOT NULL ORDER BY due LIMIT 1", (state,)
                ).fetchone()
            )
        known = [t if isinstance(t, float) else t[0] for t in times if t is not None]
        return min(known, default=None)

    def final_since(self, panda_ids: Sequence[int], before: float) -> list[int]:
        """Return which of these jobs are unknown or became final before a time."""
        gone: list[int] = []
        for panda_id in panda_ids:
            job = self.job(panda_id)
            if job is None or (job.state in JOB_TERMINAL and job.state_changed < before):
                gone.append(panda_id)
        return gone

    # --- secrets --------------------------------------------------------------------------------------------

    def set_secret(self, owner: str, key: str | None, value: str | None) -> None:
        """Keep a user secret; no value deletes it, no key deletes all of the user's."""
        if key is None:
            self._write("DELETE FROM secrets WHERE owner = ?", (owner,))
        elif value is None:
            self._write("DELETE FROM secrets WHERE owner = ? AND key = ?", (owner, key))
        else:
            self._write("INSERT OR REPLACE INTO secrets (owner, key, value) VALUES (?, ?, ?)", (owner, key, value))

    def secrets(self, owner: str) -> dict[str, str]:
        """Return the secrets of a user."""
        return dict(self._db.execute("SELECT key, value FROM secrets WHERE owner = ?", (owner,)).fetchall())

    # --- cache files ----------------------------------------------------------------------------------------

    def record_file(self, name: str, owner: str, size: int, checksum: int, now: float) -> None:
        """Note a file of the cache."""
        self._write("INSERT OR REPLACE INTO cache_files VALUES (?, ?, ?, ?, ?)", (name, owner, size, checksum, now))

    def touch_file(self, name: str, now: float) -> bool:
        """Note that a file is still needed; False if there is none of this name."""
        return self._write("UPDATE cache_files SET touched = ? WHERE name = ?", (now, name)).rowcount > 0

    def forget_file(self, name: str) -> None:
        """Drop the note of a file."""
        self._write("DELETE FROM cache_files WHERE name = ?", (name,))

    def find_file(self, owner: str, size: int, checksum: int) -> str | None:
        """Return the newest file of a user with this size and checksum, or None."""
        row = self._db.execute(
            "SELECT name FROM cache_files WHERE size = ? AND checksum = ? AND owner = ? ORDER BY touched DESC LIMIT 1",
            (size, checksum, owner),
        ).fetchone()
        return row[0] if row else None

    def stale_files(self, before: float) -> list[str]:
        """Return the files that nobody touched since a time."""
        return [r[0] for r in self._db.execute("SELECT name FROM cache_files WHERE touched < ?", (before,))]

    def open_tasks(self) -> int:
        """Return how many tasks are not final."""
        final = [s.value for s in TASK_TERMINAL]
        row = self._db.execute(f"SELECT count(*) FROM tasks WHERE state NOT IN ({_marks(final)})", final).fetchone()  # noqa: S608
        return int(row[0])


def as_json(value: Any) -> str:
    """Return JSON text without blanks."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
