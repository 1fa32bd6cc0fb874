"""What is imported ahead of forks, and by whom."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from airflow.jobs.job import Job
from airflow.sdk.execution_time.task_runner import TaskRunnerMarker

from airflow_provider_panda.listeners import component
from demo.processes import environment


@pytest.fixture
def job() -> Job:
    """A component's record in Airflow's database, which tells listeners of itself when it is made."""
    return Job()


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(component.importlib, "import_module", names.append)
    return names


def test_a_component_imports_ahead_of_its_forks(job: Job, imported: list[str]) -> None:
    component.on_starting(component=job)
    assert imported == list(component.MODULES)


def test_a_task_of_any_dag_imports_nothing(imported: list[str]) -> None:
    component.on_starting(component=TaskRunnerMarker())
    assert imported == []


def test_what_cannot_be_imported_keeps_no_component_from_starting(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(component.importlib, "import_module", broken)
    component.on_starting(component=job)


def test_the_modules_are_there_and_panda_client_is_not_among_them() -> None:
    """panda-client looks at the environment when it is imported, and idds-client is for few."""
    program = (
        "import sys; from importlib import import_module; from airflow_provider_panda.listeners import component\n"
        "for name in component.MODULES: import_module(name)\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('pandaclient', 'idds', 'stomp')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout.strip().splitlines()[-1:]) == (0, ["[]"]), done.stderr
