"""The inputs of tasks, in chunks of which each makes one job."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_panda.local.state import InputState
from airflow_provider_panda.local.store.database import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS inputs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id INTEGER NOT NULL, dataset_id INTEGER NOT NULL, chunk INTEGER NOT NULL, lfn TEXT NOT NULL,
    state TEXT NOT NULL, attempt INTEGER NOT NULL DEFAULT 0, max_attempt INTEGER NOT NULL, panda_id INTEGER,
    assigned INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS inputs_chunk ON inputs(task_id, chunk);
CREATE INDEX IF NOT EXISTS inputs_state ON inputs(task_id, state);
CREATE INDEX IF NOT EXISTS inputs_unassigned ON inputs(task_id, chunk) WHERE assigned = 0;
"""


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


def _input(row: sqlite3.Row) -> InputRow:
    return InputRow(**{**dict(row), "state": InputState(row["state"])})


class InputTable:
    """The table ``inputs``."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def insert(
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
        self._db.write_many(
            "INSERT INTO inputs (task_id, dataset_id, chunk, lfn, state, max_attempt) VALUES (?, ?, ?, ?, 'ready', ?)",
            ((task_id, dataset_id, first_chunk + index // per_job, lfn, max_attempt) for index, lfn in enumerate(lfns)),
        )

    def of(self, task_id: int, chunk: int | None = None) -> list[InputRow]:
        """Return the inputs of a task, or of one of its chunks."""
        if chunk is None:
            rows = self._db.read("SELECT * FROM inputs WHERE task_id = ? ORDER BY id", (task_id,))
        else:
            rows = self._db.read("SELECT * FROM inputs WHERE task_id = ? AND chunk = ? ORDER BY id", (task_id, chunk))
        return [_input(row) for row in rows.fetchall()]

    def set_state(self, task_id: int, chunk: int, state: InputState) -> None:
        """Set the state of a chunk's inputs."""
        self._db.write("UPDATE inputs SET state = ? WHERE task_id = ? AND chunk = ?", (state, task_id, chunk))

    def release(self, task_id: int, chunk: int) -> None:
        """Make a chunk's inputs ready for a job that a later retry makes."""
        self._db.write(
            "UPDATE inputs SET state = 'ready', assigned = 0 WHERE task_id = ? AND chunk = ?", (task_id, chunk)
        )

    def revive(self, task_id: int, *, more_attempts: int) -> int:
        """Make the unfinished inputs of a task ready again, with more attempts, and return how many had failed."""
        return self._db.write(
            "UPDATE inputs SET state = 'ready', assigned = 0, max_attempt = max_attempt + ?"
            " WHERE task_id = ? AND state = 'failed'",
            (more_attempts, task_id),
        ).rowcount

    def reset(self, task_id: int, *, keep_attempts: bool) -> int:
        """Make all inputs of a task ready again, also finished ones, and return how many there are."""
        self._db.write(
            "UPDATE inputs SET state = 'ready', assigned = 0, max_attempt = max_attempt + attempt WHERE task_id = ?"
            if keep_attempts
            else "UPDATE inputs SET state = 'ready', assigned = 0, attempt = 0 WHERE task_id = ?",
            (task_id,),
        )
        count: int = self._db.read("SELECT count(*) FROM inputs WHERE task_id = ?", (task_id,)).fetchone()[0]
        return count

    def add_attempts(self, task_id: int, increase: int) -> int:
        """Allow more attempts of the unfinished inputs of a task, and return how many these are."""
        return self._db.write(
            "UPDATE inputs SET max_attempt = max_attempt + ? WHERE task_id = ? AND state != 'finished'",
            (increase, task_id),
        ).rowcount

    def unassigned_chunks(self, task_id: int, limit: int) -> list[list[InputRow]]:
        """Return the inputs of chunks that no job has or had for good, chunk by chunk."""
        chunks = self._db.read(
            "SELECT DISTINCT chunk FROM inputs WHERE task_id = ? AND assigned = 0 ORDER BY chunk LIMIT ?",
            (task_id, limit),
        ).fetchall()
        if not chunks:
            return []
        rows = self._db.read(
            "SELECT * FROM inputs WHERE task_id = ? AND assigned = 0 AND chunk BETWEEN ? AND ? ORDER BY chunk, id",
            (task_id, chunks[0][0], chunks[-1][0]),
        )
        grouped: dict[int, list[InputRow]] = {}
        for row in rows.fetchall():
            grouped.setdefault(row["chunk"], []).append(_input(row))
        return list(grouped.values())

    def counts(self, task_id: int) -> list[tuple[str, int]]:
        """Return how many inputs of a task are in each state."""
        rows = self._db.read("SELECT state, count(*) FROM inputs WHERE task_id = ? GROUP BY state", (task_id,))
        return [tuple(row) for row in rows.fetchall()]

    def last_attempts(self, task_id: int) -> list[int]:
        """Return the PandaIDs that had the inputs of a task last."""
        rows = self._db.read(
            "SELECT DISTINCT panda_id FROM inputs WHERE task_id = ? AND panda_id IS NOT NULL ORDER BY panda_id",
            (task_id,),
        )
        return [row[0] for row in rows.fetchall()]
