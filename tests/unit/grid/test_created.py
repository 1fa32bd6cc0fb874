"""When a task was submitted, as PanDA's listings tell it."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_panda.grid.answers import task_status


@pytest.mark.parametrize(
    ("value", "created"),
    [
        ({"__datetime__": "2026-11-22T17:34:16.500000"}, 1795368856.5),  # as seen: UTC, without saying so
        ("2026-11-22 17:34:16", 1795368856.0),
        ("2026-11-22T18:34:16+01:00", 1795368856.0),
        ({"__datetime__": 5}, None),
        ("some day", None),
        (None, None),
    ],
)
def test_creation_date(value: Any, created: float | None) -> None:
    assert task_status({"jediTaskID": 1, "status": "running", "creationDate": value}).created == created
