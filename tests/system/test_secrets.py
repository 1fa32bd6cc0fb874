"""Every secret of an installation, looked for wherever somebody else could read it, during a run and after it."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.panda import PandaGrid
from tests.system.conftest import Stack

pytestmark = pytest.mark.timeout(600)
DAG = "hello_grid"


def user_secrets(stack: Stack) -> dict[str, str]:
    panda = PandaGrid(PandaEndpoint(url=stack.grid.url, auth=AuthKind.TOKEN, token=stack.grid.token(), vo="wlcg"))
    return {name: text for name, text in panda.secrets().items() if name.startswith("AIRFLOW_PANDA_")}


def secrets_of(stack: Stack) -> dict[str, str]:
    """Return every secret by what it is; of long ones a piece is enough."""
    ((_, stored),) = user_secrets(stack).items()
    own_broker = stack.grid.broker()
    return {
        "token": stack.grid.token(),
        "signature of the token": stack.grid.token().rpartition(".")[2],
        "refresh token": Path(stack.grid.ready["refresh_token_file"]).read_text().strip(),
        "broker passcode": stack.broker.subscriber.passcode,
        "publisher's passcode": stack.broker.publisher.passcode,
        "instance secret": json.loads(stored)["instance_secret"],
        "user secret": stored,
        "passcode of the grid's broker": own_broker["passcode"],
        "publisher's passcode of the grid's broker": own_broker["publisher_passcode"],
    }


class Watch(threading.Thread):
    """Reads the command line of every process, and the environment of the payloads', again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.command_lines: set[str] = set()
        self.environments: set[str] = set()
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.01):
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error, OSError):
                    line = " ".join(process.cmdline())
                    self.command_lines.add(line)
                    if "panda_runner" in line or "bash-c-enc" in line:
                        self.environments.add(Path(f"/proc/{process.pid}/environ").read_text(errors="replace"))

    def stop(self) -> None:
        self._over.set()
        self.join(30)


@pytest.fixture(scope="module")
def watched(stack: Stack) -> tuple[str, Watch]:
    """A run of a DAG that was watched."""
    watch = Watch()
    watch.start()
    try:
        stack.airflow.wait_for_dags([DAG])
        run_id = stack.airflow.trigger(DAG)
        assert stack.airflow.wait_for_run(DAG, run_id) == "success"
        with contextlib.suppress(RuntimeError):
            stack.airflow.run("panda", "check", "panda_default")
    finally:
        watch.stop()
    return run_id, watch


def nowhere(secrets: dict[str, str], texts: dict[str, str]) -> None:
    """Fail if a text holds a secret, telling which and where, and not what it is."""
    assert texts
    assert all(len(secret) > 8 for secret in secrets.values())
    found = [(what, place) for place, text in texts.items() for what, secret in secrets.items() if secret in text]
    assert not found


def test_command_lines_and_environments(stack: Stack, watched: tuple[str, Watch]) -> None:
    _, watch = watched
    assert any("panda_runner" in line for line in watch.command_lines), "the payload was not seen"
    assert any("panda check" in line for line in watch.command_lines)
    assert watch.environments
    nowhere(secrets_of(stack), {line[:200]: line for line in watch.command_lines})
    nowhere(secrets_of(stack), {f"environment {n}": each for n, each in enumerate(watch.environments)})


def test_what_the_api_of_airflow_shows(stack: Stack, watched: tuple[str, Watch]) -> None:
    """Rendered fields, XComs, logs and connections."""
    run_id, _ = watched
    airflow, texts = stack.airflow, {}
    instances = airflow.task_instances(DAG, run_id)
    texts["task instances and rendered fields"] = json.dumps(instances)
    assert any(each["rendered_fields"] for each in instances)
    for each in instances:
        path = f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/{each['task_id']}"
        for entry in airflow.get(f"{path}/xcomEntries", map_index=each["map_index"])["xcom_entries"]:
            shown = airflow.get(f"{path}/xcomEntries/{entry['key']}", map_index=each["map_index"])
            texts[f"XCom {each['task_id']} {entry['key']}"] = json.dumps(shown)
        texts[f"log of {each['task_id']}"] = airflow.task_log(DAG, run_id, each["task_id"])
    assert any(place.startswith("XCom") for place in texts)
    texts["connections"] = json.dumps(airflow.get("/connections"))
    nowhere(secrets_of(stack), texts)


def test_files(stack: Stack, watched: tuple[str, Watch]) -> None:
    """Logs, Airflow's database, DAG texts, and the logs of the grid and of its jobs."""
    texts = {}
    for file in stack.folder.rglob("*"):
        shown = file.suffix in (".log", ".stdout", ".stderr", ".json", ".py", ".cfg") or file.name.startswith(
            "airflow.db"
        )
        # data/broker.json is the file that hands the grid's own logins to its owner (mode 0600); Airflow's own
        # airflow.cfg and passwords file hold secrets of Airflow's.
        private = file.name in ("keys.json", "broker.json") and file.stat().st_mode & 0o077 == 0
        if file.is_file() and shown and not private:
            texts[str(file)] = file.read_bytes().decode("utf-8", "replace")
    assert any(place.endswith("payload.stdout") for place in texts)
    assert any(place.endswith("airflow.db") for place in texts)
    nowhere(secrets_of(stack), texts)


def get(stack: Stack, path: str, **params: Any) -> str:
    headers = {"Authorization": f"Bearer {stack.grid.token()}", "Origin": "wlcg", "Accept": "application/json"}
    return httpx.get(f"{stack.grid.url}{path}", params=params, headers=headers).text


def test_what_the_grid_shows(stack: Stack, watched: tuple[str, Watch]) -> None:
    """Task parameters, job descriptions, listings, the grid's pages, and what lies in its cache."""
    secrets = secrets_of(stack)
    panda = PandaGrid(PandaEndpoint(url=stack.grid.url, auth=AuthKind.TOKEN, token=stack.grid.token(), vo="wlcg"))
    ((name, _),) = user_secrets(stack).items()
    instance = name.removeprefix("AIRFLOW_PANDA_").lower()
    tasks = [task.task_id for task in panda.statuses(f"airflow-{instance}")]
    assert tasks
    texts = {
        "page /": get(stack, "/"),
        "listing": get(stack, "/api/v1/task/get_tasks_modified_since", since="2020-01-01 00:00:00"),
    }
    for task in tasks:
        for question in (
            "get_task_parameters",
            "get_details",
            "get_detailed_info",
            "get_job_ids",
            "get_datasets_and_files",
        ):
            texts[f"{question} {task}"] = get(stack, f"/api/v1/task/{question}", task_id=task)
        jobs = json.loads(texts[f"get_job_ids {task}"])["data"]
        texts[f"page of task {task}"] = get(stack, f"/task/{task}/")
        texts[f"jobs of {task}"] = get(stack, "/api/v1/job/get_description", job_ids=jobs)
        for job in jobs[:5]:
            texts[f"page of job {job}"] = get(stack, f"/job/{job}/")
    assert "bash-c-enc" in "".join(texts.values())
    nowhere(secrets, texts)
    archives = [file for file in (stack.folder / "grid").rglob("sources.*") if file.is_file()]
    assert archives
    for file in archives:
        nowhere(secrets, {file.name: gzip.decompress(file.read_bytes()).decode("latin-1")})


def commands(stack: Stack) -> Iterator[tuple[str, ...]]:
    """Yield commands that end well and badly."""
    stack.airflow.add_connection(
        "panda_unreachable", "panda", host="http://127.0.0.1:9", password=stack.grid.token(),
        extra={"auth": "token", "vo": "wlcg", "broker_conn_id": "broker_wrong"},
    )  # fmt: skip
    stack.airflow.add_connection(
        "broker_wrong", "stomp", host=stack.broker.host, port=stack.broker.port,
        login=stack.broker.publisher.name, password=stack.broker.subscriber.passcode,
    )  # fmt: skip
    yield "panda", "check", "panda_default"
    yield "panda", "check", "panda_default", "-o", "json"
    yield "panda", "setup", "panda_default", "-o", "json"
    yield "panda", "check", "panda_unreachable"


def test_what_commands_print(stack: Stack) -> None:
    secrets, texts = secrets_of(stack), {}
    for command in commands(stack):
        try:
            told = stack.airflow.run(*command)
        except RuntimeError as error:
            told = str(error)

        texts[" ".join(command)] = told
    assert "ok      broker login: " in texts["panda check panda_default"]
    assert "panda_unreachable" in texts["panda check panda_unreachable"]
    texts["what they logged"] = (stack.airflow.home / "commands.log").read_text(errors="replace")
    nowhere(secrets, texts)
