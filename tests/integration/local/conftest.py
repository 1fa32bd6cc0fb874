"""An embedded grid as a subprocess, and the unmodified panda-client as another."""

from __future__ import annotations

import base64
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

READY_TIMEOUT = 60.0


class RunningGrid:
    """One embedded grid process."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data, self.options = data, options
        self.start()

    def start(self) -> None:
        self.log = (self.data.parent / f"{self.data.name}.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "airflow_provider_panda.local", "--data", str(self.data), *self.options],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(READY_TIMEOUT), "the grid did not get ready"
        line = self.process.stdout.readline()
        assert line, f"the grid ended: see {self.log.name}"
        self.ready: dict[str, Any] = json.loads(line)
        self.url = self.ready["url"]
        self.token = Path(self.ready["token_file"]).read_text()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        assert self.process.stdout.read() == "", "stdout has exactly one line"
        self.process.stdout.close()
        self.log.close()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    @property
    def headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self.token}",
            "Origin": "wlcg",
            "Content-Type": "application/json",
            "Accept": "application/json",
        }

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=params, headers=self.headers, timeout=60, verify=False)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, *, origin: str = "wlcg", **body: Any) -> dict[str, Any]:
        headers = {**self.headers, "Origin": origin}
        answer = httpx.post(f"{self.url}/api/v1/{path}", json=body, headers=headers, timeout=60, verify=False)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def submit(self, **changes: Any) -> int:
        answer = self.post("task/submit", task_parameters=parameters(**changes), parent_tid=None)
        assert answer["success"], answer
        return int(answer["data"])

    def status(self, task_id: int) -> str | None:
        return self.get("task/get_status", task_id=task_id)["data"]

    def wait(self, task_id: int, *states: str, timeout: float = 120) -> str:
        deadline = time.monotonic() + timeout
        while (status := self.status(task_id)) not in states:
            assert time.monotonic() < deadline, f"task {task_id} is {status}, not {states}"
            time.sleep(0.05)
        return status

    def jobs(self, task_id: int) -> list[dict[str, Any]]:
        return self.get("task/get_job_descriptions", task_id=task_id, unsuccessful_only=False)["data"]

    @property
    def environment(self) -> dict[str, str]:
        """What panda-client wants to find in the environment."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.data.parent),
            "PANDA_URL": f"{self.url}/server/panda",
            "PANDA_URL_SSL": f"{self.url}/server/panda",
            "PANDACACHE_URL": f"{self.url}/server/panda",
            "PANDA_AUTH": "oidc",
            "PANDA_AUTH_VO": "wlcg",
            "PANDA_AUTH_ID_TOKEN": self.token,
            "PANDA_BEHIND_REAL_LB": "1",
            "PANDA_CONFIG_ROOT": str(self.data.parent / ".panda"),
        }

    def client(self, code: str) -> Any:
        """Run code with ``from pandaclient import Client`` in a process; it prints one JSON value last."""
        environment = self.environment
        program = f"import json\nfrom pandaclient import Client\n{code}\n"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            cwd=self.data.parent,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.strip().splitlines()[-1])


def parameters(command: str = "true", jobs: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    """Return a function-shaped task parameter map (facts/panda.md section 10)."""
    names = jobs or ["j0"]
    name = f"user.tester.{uuid.uuid4()}"
    params = {
        "taskName": name,
        "userName": "somebody else",
        "vo": "wlcg",
        "taskPriority": 900,
        "architecture": "",
        "transUses": "",
        "transHome": None,
        "transPath": "https://storage.googleapis.com/drp-us-central1-containers/bash-c-enc",
        "processingType": "airflow-test",
        "prodSourceLabel": "user",
        "taskType": "anal",
        "workingGroup": "wlcg",
        "noInput": True,
        "nFiles": len(names),
        "nFilesPerJob": 1,
        "pfnList": names,
        "encJobParams": True,
        "maxAttempt": 1,
        "skipScout": True,
        "log": {
            "dataset": f"{name}.log",
            "type": "template",
            "param_type": "log",
            "token": "local",
            "destination": "local",
            "value": f"{name}.log.$JEDITASKID.${{SN}}.log.tgz",
        },
        "jobParameters": [{"type": "constant", "value": command}],
    }
    params.update(changes)
    return {k: v for k, v in params.items() if v is not ...}


def decoded(job: dict[str, Any]) -> str:
    return base64.b64decode(job["jobParameters"]).decode()


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGrid]:
    """A grid for all tests that do not stop it."""
    running = RunningGrid(tmp_path_factory.mktemp("grid") / "data", "--slots", "4")
    yield running
    assert running.stop() == 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningGrid]]:
    """Start grids of a test's own."""
    started: list[RunningGrid] = []

    def begin(*options: str, data: str = "data") -> RunningGrid:
        started.append(RunningGrid(tmp_path / data, *options))
        return started[-1]

    yield begin
    for running in started:
        if running.process.poll() is None:
            assert running.stop() == 0
