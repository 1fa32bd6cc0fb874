"""The engine of the embedded grid, after JEDI: one module for each part of what happens to tasks and jobs.

:mod:`.engine` looks for what is due; :mod:`.steps` moves tasks, :mod:`.generation` makes their jobs, :mod:`.attempts`
moves those, :mod:`.commands` does what users ask for; all of them change states through :mod:`.ledger`.
"""

from __future__ import annotations

from airflow_provider_panda.local.jedi.attempts import EMBEDDED_PILOT, AttemptReport
from airflow_provider_panda.local.jedi.engine import Engine

__all__ = ["EMBEDDED_PILOT", "AttemptReport", "Engine"]
