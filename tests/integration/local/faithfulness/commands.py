"""panda-client 2.2, unmodified, in processes of its own: its functions, and its commands."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.integration.local.conftest import RunningGrid

TIMEOUT = 60.0

_CHILD = """
import json, sys
answers, sys.stdout = sys.stdout, sys.stderr
from pandaclient import Client

def shown(value):
    if hasattr(value, "_attributes"):
        return {name: getattr(value, name, None) for name in value._attributes}
    return value.isoformat() if hasattr(value, "isoformat") else str(value)

for line in sys.stdin:
    name, args, kwargs = json.loads(line)
    try:
        result = getattr(Client, name)(*args, **kwargs)
    except SystemExit as error:
        result = ["exit", error.code]
    except Exception as error:
        result = ["raised", f"{type(error).__name__}: {error}"]
    print(json.dumps(result, default=shown), file=answers, flush=True)
"""


def environment(grid: RunningGrid, *, url: str | None = None, vo: str = "wlcg") -> dict[str, str]:
    """Return what panda-client wants to find in the environment.

    :param url: where the grid is reached, if not directly.
    """
    base = f"{url or grid.url}/server/panda"
    return {
        **grid.environment,
        "PANDA_URL": base,
        "PANDA_URL_SSL": base,
        "PANDACACHE_URL": base,
        "PANDA_AUTH_VO": vo,
        "PANDA_SYS": sys.prefix,
        "PANDA_PYTHON_EXEC": sys.executable,
        "COLUMNS": "250",
    }


class PandaClient:
    """The module pandaclient.Client in a process; calls of this object are calls of its functions."""

    def __init__(self, variables: dict[str, str], folder: Path) -> None:
        self._variables, self._folder = variables, folder

    def __enter__(self) -> Self:
        self._log = (self._folder / "client.log").open("a")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            env=self._variables,
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._log.close()

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a function, and return what it returns (tuples as lists)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([name, args, kwargs]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"the client ended: see {self._log.name}"
        return json.loads(line)


def command(variables: dict[str, str], folder: Path, name: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run one of panda-client's commands; whatever it asks, nobody answers."""
    program = Path(sys.executable).parent / name
    return subprocess.run(
        [str(program), *args],
        env=variables,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def eventually(condition: Callable[[], bool]) -> None:
    """Return once a condition holds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def states(grid: RunningGrid, task_id: int) -> list[str]:
    """Return the states of a task's jobs."""
    return [job["jobStatus"] for job in grid.jobs(task_id)]
