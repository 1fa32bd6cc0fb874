"""Ends the processes of a test stack when the process that started them is gone, however it ended.

Run as a program: reads process ids and folders from stdin, one per line, and when stdin closes, ends what still runs
of them with all that they started, and removes the folders. It is the only way that also works when the starter is
killed.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil

GRACE = 8.0
"""Seconds between asking and killing."""


class Guard:
    """The guarding process, as the starter sees it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def watch(self, pid: int) -> None:
        """Have a process ended, with its children, when this one is gone."""
        self._say(str(pid))

    def own(self, folder: Path) -> None:
        """Have a folder removed when this process is gone."""
        self._say(str(folder.absolute()))

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """End what still runs, now."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _end(watched: list[psutil.Process]) -> None:
    family = [*watched]
    for process in watched:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += process.children(recursive=True)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(family, timeout=GRACE)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watched: list[psutil.Process] = []
    folders: list[str] = []
    for line in sys.stdin:
        if line.startswith("/"):
            folders.append(line.strip())
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            # Holds the time that the process started at: another one with its id is left alone.
            watched.append(psutil.Process(int(line)))
    _end([process for process in watched if process.is_running()])
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _main()
