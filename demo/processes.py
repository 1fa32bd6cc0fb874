"""Processes that a demonstration or a test session owns: started with a log file, ended by pid with their children."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil


def free_ports(count: int) -> list[int]:
    """Return distinct TCP ports that are free on loopback now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Process:
    """One child process whose output goes to a file.

    :param name: what it is, for messages.
    :param command: program and arguments.
    :param env: its whole environment.
    :param log: file for stdout and stderr; stdout is also read where ``read_stdout`` is set.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        read_stdout: bool = False,
        cwd: Path | None = None,
    ) -> None:
        self.name, self.log = name, log
        with log.open("ab") as file:
            self.popen = subprocess.Popen(  # noqa: S603 - a list of our own programs and arguments, no shell
                command,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if read_stdout else file,
                stderr=file,
                cwd=cwd,
                start_new_session=True,
                text=read_stdout or None,
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self.popen.pid

    def first_line(self) -> str:
        """Return the first line that the process prints; for programs that print one when they are ready."""
        if self.popen.stdout is None:
            raise RuntimeError(f"the output of {self.name} goes to {self.log}; start it with read_stdout=True")
        line = self.popen.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended before it was ready:\n{self.tail()}")
        return str(line)

    def wait_until(self, ready: Callable[[], bool], *, timeout: float) -> None:
        """Poll ``ready`` until it holds; fail with the log's tail if the process ends or time runs out."""
        end = time.monotonic() + timeout
        while not ready():
            if self.popen.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.popen.returncode}:\n{self.tail()}")
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} was not ready after {timeout:.0f} s:\n{self.tail()}")
            time.sleep(0.2)

    def tail(self, lines: int = 40) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, *, timeout: float = 15.0) -> None:
        """End the process and every process it started."""
        family = self.family()
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout)
        _, alive = psutil.wait_procs(family, timeout=1.0)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(alive, timeout=5.0)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5.0)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(5.0)
        if self.popen.stdout is not None:
            self.popen.stdout.close()

    def family(self) -> list[psutil.Process]:
        """Return the process and all its descendants that live now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)]
        return []


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment without any Airflow or PanDA setting of the user's, and with ``changes``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "PANDA", "OIDC_", "X509_USER"))}
    return {**kept, **changes}
