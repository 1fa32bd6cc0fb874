"""Names under which an Airflow instance's things are found in PanDA."""

from __future__ import annotations


def secret_name(instance: str) -> str:
    """Return the name of the PanDA user secret that holds an Airflow instance's delivery settings."""
    return f"AIRFLOW_PANDA_{instance.upper()}"


def processing_type(instance: str) -> str:
    """Return the PanDA processingType by which all tasks of an Airflow instance are listed at once."""
    return f"airflow-{instance}"


def task_name(dag_id: str, task_id: str, run_id: str, key: str) -> str:
    """Return a PanDA task name: readable in front, unique by the task key at its end.

    No character of it means anything in a regular expression: PanDA then looks the name up in its database and not
    among the newest tasks only (spec/panda_api.yaml, task/get_tasks_detailed_info_since).
    """
    return "-".join(["airflow", *(_name_part(part, 40) for part in (dag_id, task_id, run_id)), key])


def _name_part(text: str, length: int) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in text)[:length]
