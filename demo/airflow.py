"""A private Airflow: own home, own SQLite database, own ports, the four processes of a real one."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

from demo.processes import Process, environment, free_ports

AIRFLOW = str(Path(sys.executable).with_name("airflow"))
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
OVER = frozenset({"success", "failed"})


class Airflow:
    """Airflow's processes in a folder of their own.

    :param home: AIRFLOW_HOME.
    :param dags: folder of DAG files.
    :param parallelism: task processes at once.
    :param settings: further environment variables, such as ``AIRFLOW__SECTION__OPTION``; they win over those made here.
    :param on_start: called with the process id of each component that is started.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        *,
        parallelism: int = 4,
        settings: Mapping[str, str] | None = None,
        on_start: Callable[[int], None] | None = None,
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home, self._on_start = home, on_start
        port, trigger_log, worker_log, health = free_ports(4)
        self.url = f"http://127.0.0.1:{port}"
        own = {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": str(parallelism),
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__FERNET_KEY": _fernet_key(),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger_log),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker_log),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(health),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            # Airflow 3.3.2 notices late that some tasks have left to wait, and fails one that was resumed by then
            # (docs/troubleshooting.md); by default it looks every 5 s, and gives an open socket 60 s.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "AIRFLOW__WORKERS__SOCKET_CLEANUP_TIMEOUT": "1",
        }
        self.env = environment(**{**own, **(settings or {})})
        self.processes: dict[str, Process] = {}
        self._client: httpx.Client | None = None

    def run(self, *arguments: str) -> str:
        """Run an ``airflow`` command to its end and return what it printed.

        :raises RuntimeError: it failed.
        """
        log = self.home / "commands.log"
        process = Process(
            f"airflow {' '.join(arguments)}", [AIRFLOW, *arguments], env=self.env, log=log, read_stdout=True
        )
        output = process.popen.communicate()[0]
        if process.popen.returncode:
            raise RuntimeError(f"{process.name} ended with {process.popen.returncode}:\n{output}\n{process.tail()}")
        return str(output)

    def start(self) -> None:
        """Make the database and start every component; return when the API answers and all are healthy."""
        self.run("db", "migrate")
        for component in COMPONENTS:
            self.start_component(component)
        self.processes["api-server"].wait_until(self._all_healthy, timeout=240)

    def start_component(
        self, component: str, *, name: str | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        """Start one of :data:`COMPONENTS`.

        :param name: of its process and log, where there are several of one component.
        :param settings: environment variables that only this one has.
        """
        name = name or component
        process = Process(
            f"airflow {name}",
            [AIRFLOW, component],
            env={**self.env, **(settings or {})},
            log=self.home / f"{name}.log",
        )
        if self._on_start is not None:
            self._on_start(process.pid)
        self.processes[name] = process

    def _all_healthy(self) -> bool:
        for process in self.processes.values():
            if process.popen.poll() is not None:
                raise RuntimeError(f"{process.name} ended with {process.popen.returncode}:\n{process.tail()}")
        try:
            health = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5).json()
        except (httpx.HTTPError, ValueError):
            return False
        return all(
            health.get(name, {}).get("status") == "healthy" for name in ("scheduler", "dag_processor", "triggerer")
        )

    def stop(self) -> None:
        """Stop every component, and whatever they started."""
        if self._client is not None:
            self._client.close()
            self._client = None
        family = [child for process in self.processes.values() for child in process.family()]
        for process in self.processes.values():
            if process.popen.poll() is None:
                process.popen.terminate()
        for process in self.processes.values():
            process.stop()
        _, alive = psutil.wait_procs(family, timeout=1)
        for left in alive:
            left.kill()
        self.processes.clear()

    # --- the REST API ---------------------------------------------------------------------------------------

    @property
    def client(self) -> httpx.Client:
        """HTTP client with a token of the all-admins mode."""
        if self._client is None:
            token = httpx.get(f"{self.url}/auth/token", timeout=30).json()["access_token"]
            self._client = httpx.Client(
                base_url=f"{self.url}/api/v2", headers={"Authorization": f"Bearer {token}"}, timeout=60
            )
        return self._client

    def get(self, path: str, **params: Any) -> Any:
        """GET a resource of the REST API."""
        return self.client.get(path, params=params).raise_for_status().json()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST to the REST API."""
        answer = self.client.post(path, json=body)
        if answer.is_error:
            raise RuntimeError(f"POST {path}: {answer.status_code} {answer.text}")
        return answer.json()

    def add_connection(self, conn_id: str, conn_type: str, **fields: Any) -> None:
        """Add a connection; ``extra`` is a dictionary."""
        extra = json.dumps(fields.pop("extra", {}))
        self.post("/connections", {"connection_id": conn_id, "conn_type": conn_type, "extra": extra, **fields})

    def wait_for_dags(self, dag_ids: Iterable[str], *, timeout: float = 180) -> None:
        """Wait until the dag processor has read these DAGs."""
        wanted = set(dag_ids)
        end = time.monotonic() + timeout
        while not wanted <= {dag["dag_id"] for dag in self.get("/dags", limit=100)["dags"]}:
            if time.monotonic() > end:
                errors = self.get("/importErrors")["import_errors"]
                told = "\n".join(f"{error['filename']}:\n{error['stack_trace']}" for error in errors)
                raise RuntimeError(f"DAGs not read after {timeout:.0f} s: {sorted(wanted)}\n{told}")
            time.sleep(0.5)

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a DAG run and return its id."""
        run = self.post(f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": dict(conf or {})})
        return str(run["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a DAG run."""
        return str(self.get(f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def wait_for_run(self, dag_id: str, run_id: str, *, timeout: float = 480) -> str:
        """Wait until a DAG run is over and return its state."""
        end = time.monotonic() + timeout
        while (state := self.run_state(dag_id, run_id)) not in OVER:
            if time.monotonic() > end:
                raise TimeoutError(f"{dag_id} {run_id} is {state} after {timeout:.0f} s: {self.states(dag_id, run_id)}")
            time.sleep(0.5)
        return state

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a DAG run."""
        found: list[dict[str, Any]] = self.get(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", limit=1000)[
            "task_instances"
        ]
        return found

    def states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Return the state of every task instance, by task id and map index."""
        return {
            each["task_id"] + (f"[{each['map_index']}]" if each["map_index"] >= 0 else ""): each["state"]
            for each in self.task_instances(dag_id, run_id)
        }

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """Return an XCom value as the API shows it."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.get(path, map_index=map_index)["value"]

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """Return the whole log of a task instance's try as text."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        answer = self.client.get(
            path, params={"full_content": True, "map_index": map_index}, headers={"Accept": "application/json"}
        )
        return json.dumps(answer.raise_for_status().json(), indent=1)


def _fernet_key() -> str:
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()
