"""A real iDDS 2.6.21 for tests: REST service and agents, from a virtualenv of its own, made once per checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from demo.processes import Process, environment
from deploy.idds.configuration import Configuration, to_environment
from deploy.idds.install import default_venv, install, python_of, up_to_date, wrapper_of
from deploy.idds.wsgi import CLIENT_DN_VARIABLE

ROOT: Final = Path(__file__).parents[2]
START_TIMEOUT: Final = 90.0
USER_DN: Final = "/DC=local/CN=Test User"
"""Who every x509_proxy call of the REST service comes from; iDDS makes the user name ``Test User`` of it."""


def missing() -> str | None:
    """Return why iDDS cannot be started here, or None; what can be installed is installed when it starts."""
    if up_to_date(default_venv()) or shutil.which("uv") or Path(sys.executable).with_name("uv").exists():
        return None
    return "iDDS is not installed, and neither is uv: pip install uv"


class Idds:
    """One iDDS: ``rest`` and ``agents`` are started and stopped apart.

    :param configuration: all but its folder's files are written by :meth:`configure`.
    :param user_dn: DN of every caller that brings no token; None: a token is needed.
    :param fast: agents in fast mode (deploy/idds/agents.py).
    :param on_start: called with the process id of each process that is started.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        user_dn: str | None = USER_DN,
        fast: bool = True,
        on_start: Callable[[int], None] | None = None,
    ) -> None:
        self.configuration, self._user_dn, self._fast, self._on_start = configuration, user_dn, fast, on_start
        self.venv = default_venv()
        self.python = python_of(self.venv)
        self._bind = configuration.rest_url.removeprefix("http://")
        self._token = ""
        self._rest: Process | None = None
        self._agents: Process | None = None

    @property
    def rest_log(self) -> Path:
        """Output of the REST service; iDDS's own logs are beside it."""
        return self.configuration.folder / "logs" / "rest.out"

    @property
    def agents_log(self) -> Path:
        """Output of the agents."""
        return self.configuration.folder / "logs" / "agents.out"

    @property
    def wrapper(self) -> Path:
        """The transform of iDDS's functions."""
        return wrapper_of(self.venv)

    def prepare(self) -> None:
        """Install iDDS where it is not, and write its configuration."""
        install(self.venv)
        self.configuration.write()

    def make_schema(self) -> None:
        """Create the tables; the database must be up."""
        done = subprocess.run(
            [str(self.python), "-m", "deploy.idds", "schema"],
            env=self._environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"iDDS's schema could not be made:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")

    def start_rest(self) -> None:
        """Start the REST service, and wait until it answers."""
        extra = {CLIENT_DN_VARIABLE: self._user_dn} if self._user_dn else {}
        self._rest = self._started("REST", ["rest", "--bind", self._bind], extra, self.rest_log)
        self._rest.wait_until(self._answers, timeout=START_TIMEOUT)

    def start_agents(self, token: str | None = None) -> None:
        """Start the agents, and wait until all of them run; database and REST's schema must be there.

        :param token: their PanDA token, with the production role; None: the one they had before.
        """
        self._token = token or self._token
        self.configuration.ready_file.unlink(missing_ok=True)
        words = ["agents", *([] if self._fast else ["--plain"])]
        self._agents = self._started("agents", words, {"PANDA_AUTH_ID_TOKEN": self._token}, self.agents_log)
        self._agents.wait_until(self.configuration.ready_file.exists, timeout=START_TIMEOUT)

    def stop_rest(self) -> None:
        """Stop the REST service."""
        process, self._rest = self._rest, None
        if process is not None:
            process.stop()

    def stop_agents(self, *, kill: bool = False) -> None:
        """Stop the agents.

        :param kill: SIGKILL instead of SIGTERM, on which they finish what they do.
        """
        process, self._agents = self._agents, None
        if process is not None:
            if kill:
                process.popen.kill()
            process.stop()

    def pids(self) -> list[int]:
        """Return the process ids of what runs."""
        return [process.pid for process in (self._rest, self._agents) if process is not None]

    @property
    def rest_pid(self) -> int:
        """Process id of the REST service that runs."""
        assert self._rest is not None, "not started"
        return self._rest.pid

    @property
    def agents_pid(self) -> int:
        """Process id of the agents that run."""
        assert self._agents is not None, "not started"
        return self._agents.pid

    def close(self) -> None:
        """Stop both, the agents without letting them finish anything."""
        self.stop_agents(kill=True)
        self.stop_rest()

    def _started(self, name: str, words: list[str], extra: dict[str, str], log: Path) -> Process:
        process = Process(
            f"iDDS {name}",
            [str(self.python), "-m", "deploy.idds", *words],
            env=self._environment(**extra),
            log=log,
            cwd=ROOT,
        )
        if self._on_start is not None:
            self._on_start(process.pid)
        return process

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.configuration.rest_url}/ping", timeout=5):
                return True
        except HTTPError as answer:
            return answer.code == 401
        except (URLError, OSError):
            return False

    def _environment(self, **changes: str) -> dict[str, str]:
        others = {name: value for name, value in environment().items() if not name.startswith("IDDS_")}
        python = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        return {**others, **to_environment(self.configuration), **python, **changes}
