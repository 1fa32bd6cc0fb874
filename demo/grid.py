"""The embedded grid as a child process."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo.processes import Process, environment


class Grid:
    """An embedded grid on free ports.

    :param folder: folder of its state and log.
    :param arguments: further command line arguments.
    :param env: further environment variables.
    """

    def __init__(self, folder: Path, arguments: Sequence[str] = (), env: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.arguments, self.env = folder, list(arguments), dict(env or {})
        self.process: Process
        self.ready: dict[str, Any]
        self.start("0", "0")

    def start(self, http_port: str, stomp_port: str) -> None:
        """Start it and wait for its ready line."""
        self.process = Process(
            "embedded grid",
            [
                sys.executable, "-m", "airflow_provider_panda.local",
                "--http-port", http_port, "--stomp-port", stomp_port, "--data", str(self.folder / "data"),
                *self.arguments,
            ],
            env=environment(**self.env),
            log=self.folder / "grid.log",
            read_stdout=True,
        )  # fmt: skip
        self.ready = json.loads(self.process.first_line())

    @property
    def url(self) -> str:
        """Base URL of its PanDA server."""
        return str(self.ready["url"])

    def token(self) -> str:
        """Return the token it wants."""
        return Path(self.ready["token_file"]).read_text().strip()

    def broker(self) -> dict[str, Any]:
        """Return the logins of its broker."""
        logins: dict[str, Any] = json.loads(Path(self.ready["broker_file"]).read_text())
        return logins

    def panda_fields(self) -> dict[str, Any]:
        """Return host, port and password of an Airflow connection to its server.

        The port is a field of its own, since Airflow's Test button compares that field with what the form shows.
        """
        address, _, port = self.url.rpartition(":")
        return {"host": address, "port": int(port), "password": self.token()}

    def stop(self) -> None:
        """Stop it and its jobs."""
        self.process.stop()
