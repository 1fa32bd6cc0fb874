"""The services of docker-compose.yml as plain processes: the same commands, variables and health checks, no Docker.

A container becomes a folder with symbolic links where volumes are mounted; host names become 127.0.0.1, ports free
ones. Not tried in this way: the images (their packages, user, folders) and Docker itself. PostgreSQL's image makes its
cluster by itself and runs the scripts that are mounted for it; here :meth:`Native._prepare_postgres` does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from demo.processes import Process, free_ports
from deploy.idds.install import default_venv, install
from tests.integration.deploy.composition import ROOT, Service, services
from tests.stack.guard import Guard
from tests.stack.postgres import _account as account
from tests.stack.postgres import _programs

PORTS: Final = ("5432", "61613", "25080", "8880", "8080", "8793", "8794", "8974")
_BETWEEN: Final = 2.0
"""Seconds from one health check of a service to its next: each is a Python, and takes from what is starting."""

_PATH: Final = re.compile(r"(?<![\w/.])/(?=(?:var/lib|run/panda|opt)/)")


def programs() -> Path:
    """Return the folder of PostgreSQL's programs."""
    found = _programs()
    assert found is not None
    return found


class Native:
    """All services of a composition, started in its order.

    :param values: what is in ``.env``.
    :param timeout: seconds until all must be ready.
    """

    def __init__(self, values: Mapping[str, str], *, timeout: float = 480.0) -> None:
        self._values, self._timeout = values, timeout
        self.services = services(values)
        self.folder = Path(tempfile.mkdtemp(prefix="compose-"))
        self.folder.chmod(0o755)  # PostgreSQL runs as another user here
        self.ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self.processes: dict[str, Process] = {}
        self.took: dict[str, float] = {}
        self._looked: dict[str, float] = {}
        hosts = "|".join(re.escape(name) for name in (*self.services, "0.0.0.0", "127.0.0.1", "localhost"))
        self._address = re.compile(rf"(?<![\w.-])(?:{hosts}):(\d+)(?!\d)")
        self._guard = Guard()

    def __enter__(self) -> Native:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start everything; return when all are healthy, and the one-shot ones have ended well."""
        install(default_venv())
        began, ready = time.monotonic(), set[str]()
        while len(ready) < len(self.services):
            for service in self.services.values():
                if service.name not in self.processes and all(other in ready for other in service.after):
                    self._start(service)
                elif service.name in self.processes and service.name not in ready and self._is_ready(service):
                    ready.add(service.name)
                    self.took[service.name] = round(time.monotonic() - began, 1)
            if time.monotonic() - began > self._timeout:
                late = sorted(set(self.services) - ready)
                tails = "\n".join(f"--- {name}\n{self._tail(name)}" for name in late if name in self.processes)
                raise TimeoutError(f"not ready after {self._timeout:.0f} s: {late}; ready {self.took}\n{tails}")
            time.sleep(0.2)

    def close(self) -> None:
        """Stop everything, Airflow first and the database last, and remove the files."""
        for part in ("airflow-", "", "postgres"):
            names = [name for name in self.processes if name.startswith(part) and (part or name != "postgres")]
            with ThreadPoolExecutor(len(names) or 1) as pool:
                for done in [pool.submit(self.processes[name].stop) for name in names]:
                    done.result()
        self._guard.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def inside(self, name: str, path: str) -> Path:
        """Return where a path of a container is."""
        return self.folder / "containers" / name / path.lstrip("/")

    def rewritten(self, name: str, text: str) -> str:
        """Return a text with addresses and paths of the container as they are here."""
        text = self._address.sub(lambda match: f"127.0.0.1:{self.ports.get(match[1], match[1])}", text)
        return _PATH.sub(f"{self.inside(name, '')}/", text)

    def words(self, service: Service, command: tuple[str, ...]) -> list[str]:
        """Return a command as it is run here."""
        made = [self.ports.get(word) or self.rewritten(service.name, word) for word in command]
        for place, word in enumerate(made[:-1]):
            if word == "--host":
                made[place + 1] = "127.0.0.1"
        return made

    def environment(self, service: Service) -> dict[str, str]:
        """Return the whole environment of a service, as small as that of a container."""
        paths = [str(programs())] if service.name == "postgres" else []
        if "-idds:" in service.image:
            paths = [str(default_venv() / "bin")]
        elif "-grid:" in service.image or "-airflow:" in service.image:
            paths = [str(Path(sys.executable).parent)]
        made = {
            "PATH": os.pathsep.join([*paths, os.defpath, "/usr/local/bin"]),
            "HOME": str(self.inside(service.name, "home")),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
        }
        for name, value in service.environment.items():
            made[name] = self.ports.get(value) or self.rewritten(service.name, value)
            if name.endswith("__HOST"):
                made[name] = "127.0.0.1"
        return made

    def health(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run the health check of a service once."""
        service = self.services[name]
        assert service.health is not None
        return subprocess.run(
            self.words(service, service.health),
            env=self.environment(service),
            cwd=self._working_dir(service),
            capture_output=True,
            text=True,
            timeout=30,
        )

    def _start(self, service: Service) -> None:
        self._make_container(service)
        command, env = self.words(service, service.command), self.environment(service)
        if service.name == "postgres":
            command = [*account(), *command, *self._prepare_postgres(service, env)]
        # The program is looked up on the PATH of its container, not on ours.
        program = next(place for place, word in enumerate(command) if word == self.words(service, service.command)[0])
        command[program] = shutil.which(command[program], path=env["PATH"]) or command[program]
        self.processes[service.name] = Process(
            service.name, command, env=env, log=self._log(service.name), cwd=self._working_dir(service)
        )
        self._guard.watch(self.processes[service.name].pid)

    def _is_ready(self, service: Service) -> bool:
        code = self.processes[service.name].popen.poll()
        if code is not None and (code or not service.one_shot):
            raise RuntimeError(f"{service.name} ended with {code}:\n{self._tail(service.name)}")
        if service.one_shot:
            return code == 0
        if time.monotonic() < self._looked.get(service.name, 0.0) + _BETWEEN:
            return False
        if self.health(service.name).returncode:
            self._looked[service.name] = time.monotonic()
            return False
        if service.name == "postgres":
            self._run_database_scripts(service)
        return True

    def _make_container(self, service: Service) -> None:
        root = self.inside(service.name, "")
        (root / "home").mkdir(parents=True)
        links = {"/opt/panda": ROOT, "/opt/idds": default_venv()}
        for mount in service.mounts:
            source = ROOT / mount.source if mount.source.startswith("./") else self.folder / "volumes" / mount.source
            source.mkdir(parents=True, exist_ok=True)
            links[mount.target] = source
        # Folders above mount points are folders of the image.
        for target in sorted(links):
            place = self.inside(service.name, target)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(links[target].resolve())

    def _working_dir(self, service: Service) -> Path:
        return self.inside(service.name, service.working_dir) if service.working_dir else self.folder

    def _log(self, name: str) -> Path:
        (self.folder / "logs").mkdir(exist_ok=True)
        return self.folder / "logs" / name

    def _tail(self, name: str) -> str:
        return self.processes[name].tail(60)

    # --- what PostgreSQL's image does by itself ------------------------------------------------------------------

    def _prepare_postgres(self, service: Service, env: Mapping[str, str]) -> list[str]:
        data = self.inside("postgres", "/var/lib/postgresql/data").resolve()
        password = self.folder / "password"
        password.write_text(env["POSTGRES_PASSWORD"])
        if account():
            for path in (data, password):
                shutil.chown(path, "postgres", "postgres")
        subprocess.run(
            [
                *account(), str(programs() / "initdb"), "-D", str(data), "-U", env["POSTGRES_USER"],
                "--pwfile", str(password), "--no-sync", *env["POSTGRES_INITDB_ARGS"].split(),
            ],
            env=env, cwd=self.folder, check=True, capture_output=True,
        )  # fmt: skip
        password.unlink()
        return ["-D", str(data), "-h", "127.0.0.1", "-p", self.ports["5432"], "-k", str(data), "-c", "fsync=off"]

    def _run_database_scripts(self, service: Service) -> None:
        env = {
            **self.environment(service),
            "PGHOST": "127.0.0.1",
            "PGPORT": self.ports["5432"],
            "PGPASSWORD": service.environment["POSTGRES_PASSWORD"],
        }
        for script in sorted(self.inside("postgres", "/docker-entrypoint-initdb.d").glob("*.sh")):
            subprocess.run([str(script)], env=env, check=True)
