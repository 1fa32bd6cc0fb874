"""Names under which an Airflow instance's things are found in PanDA."""

from __future__ import annotations

import base64
import hashlib
import re


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


def key_in(name: str, instance: str) -> str | None:
    """Return the task key of an Airflow instance in a PanDA task name, or None for a task of anybody else's.

    The key is the name's end, behind which iDDS writes its request and transform.
    """
    found = re.search(rf"(?:^|[^a-z0-9])(af{re.escape(instance)}[a-z2-7]{{14}})(?:_\d+_\d+)?$", name)
    return found[1] if found else None


def _name_part(text: str, length: int) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in text)[:length]


def run_mark(instance: str, dag_id: str, run_id: str) -> str:
    """Return the part of an iDDS request's name that tells one DAG run of an Airflow instance from all others."""
    digest = hashlib.sha256(f"airflow-panda run v1:{instance}:{dag_id}:{run_id}".encode()).digest()
    return f"af{instance}" + base64.b32encode(digest).decode().lower()[:14]


def request_name(dag_id: str, run_id: str, mark: str, generation: int, nonce: str) -> str:
    """Return the name of an iDDS request of a DAG run.

    iDDS lists ids by name, one per name, so whoever makes a request puts a nonce of its own at the end.

    :param mark: see :func:`run_mark`.
    :param generation: which start of the run: a closed request takes no further works.
    :param nonce: key of the task that makes it.
    """
    return "-".join(["airflow", _name_part(dag_id, 40), _name_part(run_id, 60), mark, f"g{generation}", nonce])


def request_pattern(mark: str) -> str:
    """Return the pattern that lists the requests of a DAG run, of all generations."""
    return f"airflow-*-{mark}-g*"


def generation_of(name: str, mark: str) -> int | None:
    """Return the generation in a listed name, or None for a request of another run.

    iDDS takes ``_`` in a pattern for any character, so a listing may hold other names.
    """
    _, found, rest = name.rpartition(f"-{mark}-g")
    digits = rest.partition("-")[0]
    return int(digits) if found and digits.isdigit() else None


def mark_in(name: str, instance: str) -> str | None:
    """Return the mark of a DAG run (:func:`run_mark`) in the name of a request of this instance, else None."""
    found = re.search(rf"-(af{re.escape(instance)}[a-z2-7]{{14}})-g\d+-", name)
    return found[1] if found else None


def instance_pattern(instance: str) -> str:
    """Return the pattern that lists the requests of all DAG runs of an Airflow instance."""
    return f"airflow-*-af{instance}*-g*"
