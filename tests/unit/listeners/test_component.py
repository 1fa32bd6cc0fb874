"""What is imported ahead of forks, and by whom."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.jobs.job import Job
from airflow.sdk.execution_time.task_runner import TaskRunnerMarker

from airflow_provider_panda.listeners import component
from demo.processes import environment
from tests.stack.scripted_panda import envelope, scripted_panda
from tests.unit.operators.scene import LIST, SUBMIT, panda_connection


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


SUBMISSION = """
import sys, json
from importlib import import_module
from types import SimpleNamespace
from airflow_provider_panda.listeners import component
for name in component.MODULES: import_module(name)
import airflow_provider_panda.plugin  # by Airflow's plugin manager
from airflow.providers.common.compat.sdk import TaskDeferred
ahead = set(sys.modules)

from airflow_provider_panda.decorators import panda_task

class Store(dict):
    def set(self, name, value): self[name] = value
    def delete(self, name): self.pop(name, None)

def double(n):
    return 2 * n

ti = SimpleNamespace(
    id="a task instance", dag_id="dag", task_id="task", run_id="run", map_index=-1,
    xcom_push=lambda key, value: None, xcom_pull=lambda *_, **__: None,
)
operator = panda_task(double, map_over="n")([1, 2]).operator
try:
    operator.execute({"ti": ti, "task_state_store": Store()})
except TaskDeferred:
    ours = {name for name in set(sys.modules) - ahead if name.startswith("airflow_provider_panda")}
    print(json.dumps(sorted(ours)))
"""


def test_a_submission_imports_no_module_of_ours_that_is_not_imported_ahead(tmp_path: Path) -> None:
    """Each one left out of MODULES is imported once more for each leg of each task (benchmarks/airflow.py shows it)."""
    program = tmp_path / "submission.py"  # functions are packaged from their source
    program.write_text(SUBMISSION)
    with scripted_panda() as panda:
        panda.on(LIST, envelope([]))
        panda.on(SUBMIT, envelope(7, message="succeeded. new jediTaskID=7"))
        panda.on("file_server/upload_cache_file", envelope(None))
        settings = environment(AIRFLOW_CONN_PANDA_DEFAULT=panda_connection(panda.url), AIRFLOW_HOME=str(tmp_path))
        done = subprocess.run(
            [sys.executable, str(program)], env=settings, capture_output=True, text=True, check=False, timeout=120
        )
    assert done.returncode == 0, done.stderr
    assert len(panda.calls(SUBMIT)) == 1
    assert json.loads(done.stdout.strip().splitlines()[-1]) == []
