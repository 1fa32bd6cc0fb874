"""The embedded grid: a PanDA server of this machine, with a broker and workers, for development, demos and tests.

``python -m airflow_provider_panda.local`` starts one. It imitates panda-server 1.0 as facts/panda.md describes it.
"""

from __future__ import annotations

from airflow_provider_panda.local.options import GridOptions, add_arguments, options_from

__all__ = ["GridOptions", "add_arguments", "options_from", "run"]


def run(options: GridOptions) -> int:
    """Run an embedded grid until SIGTERM or SIGINT, and return its exit code (see :mod:`.service`)."""
    from airflow_provider_panda.local.service import run as run_service

    return run_service(options)
