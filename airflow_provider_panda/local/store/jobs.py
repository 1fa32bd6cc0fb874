"""The jobs that the embedded grid knows; each is one attempt at a chunk of inputs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from airflow_provider_panda.local.state import JOB_TERMINAL, JOB_WITH_PILOT, JobState
from airflow_provider_panda.local.store.database import Database, assignments, marks

SCHEMA = """
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
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """An output or log file of a job.

    :param kind: ``output`` or ``log``.
    :param size: bytes, as the pilot reported; 0 before.
    :param checksum: with its kind in front (``ad:``, ``md5:``), as the pilot reported; None before.
    :param guid: as the pilot reported; None before.
    """

    kind: str
    lfn: str
    size: int = 0
    checksum: str | None = None
    guid: str | None = None


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

    @property
    def outputs(self) -> list[OutputFile]:
        """Its output and log files; ``files`` has them as JSON, in short or with what the pilot reported."""
        return [
            OutputFile(kind=kind, lfn=lfn, **(reported[0] if reported else {}))
            for kind, lfn, *reported in json.loads(self.files)
        ]


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


JOB_COLUMNS = frozenset(f.name for f in fields(JobRow))


def _job(row: sqlite3.Row) -> JobRow:
    return JobRow(**{**dict(row), "state": JobState(row["state"])})


class JobTable:
    """The table ``jobs``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def insert(self, job: NewJob, now: float) -> int:
        """Insert a job and give it its inputs; return its PandaID."""
        panda_id = self._db.insert(
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
        self._db.write(
            "UPDATE inputs SET state = 'ready', panda_id = ?, attempt = ?, assigned = 1"
            " WHERE task_id = ? AND chunk = ?",
            (panda_id, job.attempt, job.task_id, job.chunk),
        )
        return panda_id

    def update(self, panda_id: int, **columns: Any) -> None:
        """Set columns of a job."""
        self._db.write(
            f"UPDATE jobs SET {assignments(columns, JOB_COLUMNS)} WHERE panda_id = ?",  # noqa: S608 - names checked, values by placeholders
            [*columns.values(), panda_id],
        )

    def get(self, panda_id: int) -> JobRow | None:
        """Return a job, or None."""
        row = self._db.read("SELECT * FROM jobs WHERE panda_id = ?", (panda_id,)).fetchone()
        return _job(row) if row else None

    def existing(self, panda_id: int) -> JobRow:
        """Return a job that was inserted.

        :raises LookupError: there is none.
        """
        job = self.get(panda_id)
        if job is None:
            raise LookupError(f"the grid's database has no job {panda_id}")
        return job

    def of(
        self, task_id: int, states: Iterable[JobState] | None = None, *, limit: int = -1, newest: bool = False
    ) -> list[JobRow]:
        """Return the jobs of a task, by PandaID, in any or in the given states."""
        order = "DESC" if newest else "ASC"
        chosen = list(states) if states is not None else None
        where = f" AND state IN ({marks(chosen)})" if chosen is not None else ""
        rows = self._db.read(
            f"SELECT * FROM jobs WHERE task_id = ?{where} ORDER BY panda_id {order} LIMIT ?",  # noqa: S608 - names checked, values by placeholders
            [task_id, *(chosen or []), limit],
        )
        return [_job(row) for row in rows.fetchall()]

    def ids_of(self, task_id: int) -> list[int]:
        """Return the PandaIDs of all attempts of a task."""
        return [r[0] for r in self._db.read("SELECT panda_id FROM jobs WHERE task_id = ? ORDER BY 1", (task_id,))]

    def counts(self, task_id: int) -> dict[str, int]:
        """Return how many jobs of a task are in each state."""
        rows = self._db.read("SELECT state, count(*) FROM jobs WHERE task_id = ? GROUP BY state", (task_id,))
        return dict(rows.fetchall())

    def metadata_of(self, task_id: int) -> list[tuple[int, str]]:
        """Return PandaID and report of the finished jobs of a task that left one."""
        rows = self._db.read(
            "SELECT panda_id, metadata FROM jobs WHERE task_id = ? AND state = 'finished' AND metadata IS NOT NULL",
            (task_id,),
        )
        return [tuple(row) for row in rows.fetchall()]

    def due(self, state: JobState, now: float, limit: int = 500) -> list[JobRow]:
        """Return the jobs in a state whose time has come, oldest first."""
        rows = self._db.read(
            "SELECT * FROM jobs WHERE state = ? AND due IS NOT NULL AND due <= ? ORDER BY due, panda_id LIMIT ?",
            (state, now, limit),
        )
        return [_job(row) for row in rows.fetchall()]

    def activated(
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
        rows = self._db.read(
            "SELECT * FROM jobs INDEXED BY jobs_state"  # noqa: S608 - fixed texts, values by placeholders
            f" WHERE {' AND '.join(conditions)} ORDER BY due, panda_id LIMIT ?",
            [*values, limit],
        )
        return [_job(row) for row in rows.fetchall()]

    def with_pilot(self, pilot: str) -> list[JobRow]:
        """Return the jobs that a pilot of this name has."""
        states = [s.value for s in JOB_WITH_PILOT]
        rows = self._db.read(
            f"SELECT * FROM jobs WHERE state IN ({marks(states)}) AND pilot = ?",  # noqa: S608 - names checked, values by placeholders
            [*states, pilot],
        )
        return [_job(row) for row in rows.fetchall()]

    def next_due(self, *, with_activated: bool) -> float | None:
        """Return the earliest time at which a job is due.

        :param with_activated: whether a waiting job counts, that is whether a slot is free.
        """
        times = []
        states = [JobState.PENDING, JobState.HOLDING, *JOB_WITH_PILOT]
        if with_activated:
            states.append(JobState.ACTIVATED)
        for state in states:
            times.append(
                self._db.read(
                    "SELECT due FROM jobs WHERE state = ? AND due IS NOT NULL ORDER BY due LIMIT 1", (state,)
                ).fetchone()
            )
        return min((row[0] for row in times if row is not None), default=None)

    def final_since(self, panda_ids: Sequence[int], before: float) -> list[int]:
        """Return which of these jobs are unknown or became final before a time."""
        gone: list[int] = []
        for panda_id in panda_ids:
            job = self.get(panda_id)
            if job is None or (job.state in JOB_TERMINAL and job.state_changed < before):
                gone.append(panda_id)
        return gone
