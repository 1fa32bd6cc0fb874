"""Makes the virtualenv of an iDDS, and the transform for its jobs, once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.idds.wrapper import NAME, build_wrapper

HERE = Path(__file__).parent
NODE_PYTHON = "3.9"
"""Oldest Python of worker nodes; the wrapper's libraries are chosen for it."""


def default_venv() -> Path:
    """Return where iDDS's virtualenv is wanted: beside the one that runs this (another place: ``IDDS_VENV``)."""
    return Path(os.environ.get("IDDS_VENV") or Path(sys.prefix).parent / ".venv-idds").absolute()


def wrapper_of(venv: Path) -> Path:
    """Return where the transform of a virtualenv is."""
    return venv / "trf" / NAME


def python_of(venv: Path) -> Path:
    """Return the Python of a virtualenv."""
    return venv / "bin" / "python"


def up_to_date(venv: Path) -> bool:
    """Return whether a virtualenv holds what is wanted now."""
    mark = venv / ".installed-for"
    return mark.exists() and mark.read_text() == _wanted() and python_of(venv).exists()


def install(venv: Path) -> None:
    """Make a virtualenv with iDDS and its wrapper, or bring it up to date; does nothing where nothing has changed.

    Safe to call from several processes at once. Needs uv, next to this Python or on PATH.

    :raises subprocess.CalledProcessError: a package could not be installed.
    """
    if up_to_date(venv):
        return
    venv.parent.mkdir(parents=True, exist_ok=True)
    with venv.with_name(f"{venv.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if up_to_date(venv):
            return
        print(f"installing iDDS into {venv} (a few seconds to a minute)", file=sys.stderr)
        uv = _uv()
        # In place, for a stack may be running from it.
        _run(uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(venv))
        _run(
            uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python_of(venv)),
            "-r", str(HERE / "requirements.txt"),
        )  # fmt: skip
        node = venv / "node"
        _run(
            uv, "pip", "install", "--quiet", "--python-version", NODE_PYTHON, "--target", str(node),
            "-r", str(HERE / "node-requirements.txt"),
        )  # fmt: skip
        wrapper_of(venv).parent.mkdir(exist_ok=True)
        build_wrapper(node, wrapper_of(venv))
        (venv / ".installed-for").write_text(_wanted())


def _run(*command: str) -> None:
    subprocess.run(command, check=True)  # noqa: S603 - uv with the arguments above, no shell


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise RuntimeError("uv is needed to install iDDS: pip install uv")
    return found


def _wanted() -> str:
    made = hashlib.sha256(f"{sys.version_info[:2]}".encode())
    for path in sorted([*HERE.glob("*requirements.txt"), HERE / "install.py", HERE / "wrapper.py"]):
        made.update(path.read_bytes())
    return made.hexdigest()
