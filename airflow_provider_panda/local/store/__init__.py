"""What the embedded grid knows, in one SQLite file; the only place with SQL, one module a table."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from airflow_provider_panda.local.store import cache_files, datasets, inputs, jobs, tasks, user_secrets
from airflow_provider_panda.local.store.database import Database, as_json
from airflow_provider_panda.local.store.inputs import InputRow
from airflow_provider_panda.local.store.jobs import JobRow, NewJob
from airflow_provider_panda.local.store.tasks import TaskRow

__all__ = ["InputRow", "JobRow", "NewJob", "Store", "TaskRow", "as_json"]


class Store:
    """The grid's SQLite file with its tables; a transaction spans all of them."""

    def __init__(self, path: Path) -> None:
        parts = (tasks, inputs, datasets, jobs, user_secrets, cache_files)
        self._database = Database(path, [part.SCHEMA for part in parts])
        self.tasks = tasks.TaskTable(self._database)
        self.datasets = datasets.DatasetTable(self._database)
        self.inputs = inputs.InputTable(self._database)
        self.jobs = jobs.JobTable(self._database)
        self.secrets = user_secrets.SecretTable(self._database)
        self.files = cache_files.FileTable(self._database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Commit and close."""
        self._database.close()

    def commit(self) -> None:
        """End the open transaction, if there is one."""
        self._database.commit()

    def rollback(self) -> None:
        """Forget what changed since the last commit."""
        self._database.rollback()

    def next_due(self, *, with_activated: bool) -> float | None:
        """Return the earliest time at which something is due.

        :param with_activated: whether a waiting job counts, that is whether a slot is free.
        """
        times = (self.tasks.next_due(), self.jobs.next_due(with_activated=with_activated))
        return min((time for time in times if time is not None), default=None)
