"""Where the embedded grid keeps what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from airflow_provider_panda.local.store import JobRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Directories:
    """Where the embedded grid keeps what.

    :param data: the whole.
    """

    data: Path

    @property
    def cache(self) -> Path:
        """Uploaded archives."""
        return self.data / "cache"

    @property
    def scratch(self) -> Path:
        """Working directories of jobs."""
        return self.data / "scratch"

    @property
    def logs(self) -> Path:
        """Payload logs: ``<jediTaskID>/<PandaID>/payload.stdout`` and ``payload.stderr``."""
        return self.data / "logs"

    @property
    def transforms(self) -> Path:
        """Executables that stand for transforms."""
        return self.data / "trf"

    def make(self) -> None:
        """Make them all, readable by the owner only."""
        for path in (self.data, self.cache, self.scratch, self.logs, self.transforms):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def log_of(self, job: JobRow) -> Path:
        """Return the directory of a job's payload logs."""
        return self.logs / str(job.task_id) / str(job.panda_id)
