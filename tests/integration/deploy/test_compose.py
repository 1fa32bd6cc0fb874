"""Every command and health check of docker-compose.yml, run as plain processes, and a DAG through all of them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from demo.processes import Process
from tests.integration.deploy.composition import ROOT, dotenv
from tests.integration.deploy.native import Native, programs
from tests.stack.stack import missing

DAG = "hello_grid"

if missing():
    pytest.skip(str(missing()), allow_module_level=True)


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What tools/compose-env makes."""
    file = tmp_path_factory.mktemp("env") / ".env"
    subprocess.run([str(ROOT / "tools/compose-env"), str(file)], check=True)
    return dotenv(file)


@pytest.fixture(scope="module")
def native(values: dict[str, str]) -> Iterator[Native]:
    with Native(values) as running:
        yield running


class Api:
    """Airflow's REST API as the user that airflow-init made."""

    def __init__(self, url: str, password: str) -> None:
        login = httpx.post(f"{url}/auth/token", json={"username": "admin", "password": password}, timeout=60)
        token = login.raise_for_status().json()["access_token"]
        self._client = httpx.Client(base_url=f"{url}/api/v2", headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._client.request(method, path, json=body).raise_for_status().json()


@pytest.fixture(scope="module")
def api(native: Native, values: dict[str, str]) -> Api:
    return Api(f"http://127.0.0.1:{native.ports['8080']}", values["AIRFLOW_ADMIN_PASSWORD"])


def test_every_service_becomes_healthy_or_ends_well(native: Native) -> None:
    assert set(native.took) == set(native.services)
    for name, service in native.services.items():
        code = native.processes[name].popen.poll()
        assert code == (0 if service.one_shot else None), f"{name} ended with {code}: {native.processes[name].tail()}"


def test_setup_and_check_said_that_all_is_well(native: Native) -> None:
    said = native.processes["airflow-init"].log.read_text()
    assert "Set up." in said
    for step in ("VO", "iDDS", "broker login", "broker subscribe", "broker publish", "broker delivery"):
        assert f"ok      {step}:" in said, said


def test_a_wrong_password_is_refused(native: Native) -> None:
    with pytest.raises(httpx.HTTPStatusError):
        Api(f"http://127.0.0.1:{native.ports['8080']}", "admin")


def test_hello_grid_runs_through_idds(native: Native, api: Api) -> None:
    end = time.monotonic() + 300
    while DAG not in {dag["dag_id"] for dag in api.call("GET", "/dags")["dags"]}:
        assert time.monotonic() < end, native.processes["airflow-dag-processor"].tail()
        time.sleep(0.5)
    api.call("PATCH", f"/dags/{DAG}", {"is_paused": False})
    assert _hello(native, api).startswith("Hello grid, from Python")
    named = _rows(native, "select name from doma_idds.transforms")
    assert len(named) == 1
    assert DAG in named[0]
    assert "hello" in named[0]


def test_no_secret_is_on_a_command_line_or_in_a_log(native: Native, values: dict[str, str]) -> None:
    secrets = {name: value for name, value in values.items() if len(value) > 12}
    assert len(secrets) == 10
    for process in native.processes.values():
        text = "\n".join([*_command_lines(process), process.log.read_text(errors="replace")])
        assert [name for name, value in secrets.items() if value in text] == [], process.name


def test_another_service_is_set_by_a_second_init_which_keeps_what_was_added(native: Native, api: Api) -> None:
    path = "/connections/panda_default"
    before = json.loads(api.call("GET", path)["extra"])
    added = {"connection_id": "panda_default", "conn_type": "panda", "extra": json.dumps({**before, "queue": "LOCAL"})}
    api.call("PATCH", f"{path}?update_mask=extra", added)
    service = native.services["airflow-init"]
    again = subprocess.run(
        native.words(service, service.command),
        env={**native.environment(service), "PANDA_SERVICE": "panda"},
        cwd=native.inside("airflow-init", "/opt/panda"),
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "the connection has one" in again.stdout
    # The instance's name is derived from its secret.
    assert _instance(again.stdout) == _instance(native.processes["airflow-init"].log.read_text())
    stored = json.loads(api.call("GET", path)["extra"])
    assert (stored["service"], stored["queue"]) == ("panda", "LOCAL")
    assert _hello(native, api).startswith("Hello grid, from Python")
    assert len(_rows(native, "select name from doma_idds.transforms")) == 1  # none came by iDDS


def test_a_health_check_tells_a_dead_service(native: Native) -> None:
    for name in ("idds-agents", "idds-rest", "activemq"):
        assert native.health(name).returncode == 0
        native.processes[name].stop()
        assert native.health(name).returncode != 0, name


def _hello(native: Native, api: Api) -> str:
    run = api.call("POST", f"/dags/{DAG}/dagRuns", {"logical_date": None})["dag_run_id"]
    path = f"/dags/{DAG}/dagRuns/{run}"
    end = time.monotonic() + 300
    while (state := api.call("GET", path)["state"]) not in ("success", "failed"):
        assert time.monotonic() < end, api.call("GET", f"{path}/taskInstances")
        time.sleep(0.5)
    assert state == "success", _logs(native)
    return str(api.call("GET", f"{path}/taskInstances/hello/xcomEntries/return_value")["value"])


def _instance(said: str) -> str:
    return said.rpartition("this Airflow is ")[2].split()[0]


def _command_lines(process: Process) -> list[str]:
    found = []
    for each in process.family():
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(" ".join(each.cmdline()))
    return found


def _rows(native: Native, statement: str) -> list[str]:
    environment = {"PGPASSWORD": native.services["postgres"].environment["IDDS_DB_PASSWORD"], "PATH": "/usr/bin:/bin"}
    command = [
        "psql",
        "-h",
        "127.0.0.1",
        "-p",
        native.ports["5432"],
        "-U",
        "idds",
        "-d",
        "idds",
        "-qAt",
        "-c",
        statement,
    ]
    command[0] = str(programs() / "psql")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def _logs(native: Native) -> str:
    found = sorted((native.folder / "volumes" / "airflow-logs").glob("dag_id=*/**/*.log*"))
    return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in map(Path, found))
