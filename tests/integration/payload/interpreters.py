"""Finds the Pythons of this machine: ``python3.N`` of the PATH, then those of pyenv."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def find_interpreter(minor: int) -> str | None:
    """Return the path of a Python 3.<minor> that starts, or None."""
    named = shutil.which(f"python3.{minor}")
    pyenv = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3"))
    for candidate in [*([named] if named else []), *map(str, reversed(pyenv))]:
        question = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
        try:  # a shim of pyenv exists for versions that are not switched on, and fails
            asked = subprocess.run([candidate, "-c", question], capture_output=True, text=True, timeout=60, check=False)
        except OSError:
            continue
        version, _, path = asked.stdout.strip().partition(" ")
        if asked.returncode == 0 and version == f"3.{minor}":
            return path
    return None
