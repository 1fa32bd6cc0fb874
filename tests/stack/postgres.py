"""A private PostgreSQL for tests: own folder, own port, nothing of the machine's own clusters touched.

Debian package ``postgresql``. PostgreSQL does not run as root: started by root, it runs as the user ``postgres``.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from demo.processes import Process
from tests.stack.activemq import free_port

START_TIMEOUT: Final = 60.0
USER: Final = "idds"
DATABASE: Final = "idds"
_FAST: Final = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=120")


def _programs() -> Path | None:
    """Return the folder of the newest installed PostgreSQL's programs; Debian has only some of them on PATH."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda folder: float(folder.parent.name))
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def missing() -> str | None:
    """Return why PostgreSQL cannot be started here, or None."""
    return None if _programs() else "PostgreSQL is not installed: apt-get install postgresql"


class PostgreSQL:
    """One database cluster with one database, on a port that it keeps over restarts.

    :param on_start: called with the process id of each server that is started.
    """

    def __init__(self, *, on_start: Callable[[int], None] | None = None) -> None:
        self._on_start = on_start
        self.host = "127.0.0.1"
        self.port = free_port()
        self._password = secrets.token_hex(16)
        self._folder: Path | None = None
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """URL of the database, with its password."""
        return f"postgresql://{USER}:{self._password}@{self.host}:{self.port}/{DATABASE}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def folder(self) -> Path:
        """Where the cluster is."""
        assert self._folder is not None, "not started"
        return self._folder

    def start(self) -> None:
        """Start the server, and before the first time make the cluster; wait until it answers."""
        programs = _programs()
        if programs is None:
            raise RuntimeError(missing())
        new = self._folder is None
        folder = self._folder or self._make_cluster(programs)
        self._folder = folder
        settings = [f"port={self.port}", f"listen_addresses={self.host}", "unix_socket_directories=", *_FAST]
        self._process = Process(
            "PostgreSQL",
            [
                *_account(),
                str(programs / "postgres"),
                "-D",
                str(folder / "data"),
                *[w for s in settings for w in ("-c", s)],
            ],
            env=_environment(),
            log=folder / "postgres.log",
            cwd=folder,
        )
        if self._on_start is not None:
            self._on_start(self._process.pid)
        self._process.wait_until(lambda: self._answers(programs), timeout=START_TIMEOUT)
        if new:
            self._run(programs, "createdb", *self._address(), DATABASE)

    def stop(self, *, kill: bool = True) -> None:
        """Stop the server; the cluster stays for :meth:`start`.

        :param kill: cut all connections at once (what a crash looks like) instead of rolling back first.
        """
        process, self._process = self._process, None
        if process is None:
            return
        if process.popen.poll() is None:
            process.popen.send_signal(signal.SIGQUIT if kill else signal.SIGINT)
            try:
                process.popen.wait(10)
            except subprocess.TimeoutExpired:
                process.popen.kill()
        process.stop()

    def restart(self, *, down: float = 0.0) -> None:
        """Stop the server, stay away for ``down`` seconds, and start it again."""
        self.stop()
        time.sleep(down)
        self.start()

    def close(self) -> None:
        """Stop the server and remove its folder."""
        self.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def query(self, statement: str) -> list[list[str]]:
        """Return the rows of an SQL statement, as texts; for tests that look into iDDS."""
        programs = _programs()
        assert programs is not None
        text = self._run(programs, "psql", *self._address(), "-qAt", "-F", "\x1f", "-c", statement, DATABASE)
        return [line.split("\x1f") for line in text.splitlines()]

    def _make_cluster(self, programs: Path) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        password = folder / "password"
        password.write_text(self._password)
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            for path in (folder, password):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        command = [
            *_account(),
            str(programs / "initdb"),
            "-D",
            str(folder / "data"),
            "-U",
            USER,
            "--pwfile",
            str(password),
        ]
        command += ["-A", "scram-sha-256", "-E", "UTF8", "--locale", "C", "--no-sync"]
        done = subprocess.run(command, env=_environment(), cwd=folder, capture_output=True, text=True)
        password.unlink()
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            raise RuntimeError(f"initdb failed: {done.stderr}")
        return folder

    def _address(self) -> list[str]:
        return ["-h", self.host, "-p", str(self.port), "-U", USER]

    def _answers(self, programs: Path) -> bool:
        command = [str(programs / "pg_isready"), "-q", *self._address()]
        return subprocess.run(command, env=_environment()).returncode == 0

    def _run(self, programs: Path, name: str, *arguments: str) -> str:
        environment = {**_environment(), "PGPASSWORD": self._password}
        done = subprocess.run([str(programs / name), *arguments], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stderr}")
        return done.stdout


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _account() -> list[str]:
    """Return the prefix of a command that PostgreSQL agrees to run under."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"] if os.geteuid() == 0 else []
