"""Runs one job of an archive in a scratch directory of this machine, without any service."""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_provider_panda.exceptions import ArchiveError, PandaProviderError, ValueDecodeError

from . import bootstrap, envelope
from .result import JobResult, decode_value, read_body
from .runner import job_index

_SECRET_NAME = "AIRFLOW_PANDA_LOCAL_RUN"  # noqa: S105 - name of an environment variable
_TASK_KEY = "aflocalrun0000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRun:
    """How a local run ended.

    :param exit_code: of the job.
    :param report: its ``jobReport.json``; empty if it left none.
    :param result: the verified result, or None.
    :param value: the decoded value, if the function returned one that can be rebuilt here.
    :param problem: why there is no value although the function returned.
    :param stdout: what the job printed, if captured.
    :param stderr: likewise.
    """

    exit_code: int
    report: dict[str, Any]
    result: JobResult | None
    value: Any = None
    problem: str | None = None
    stdout: str = ""
    stderr: str = ""


def run_archive(
    archive: Path | bytes,
    *,
    job: str | int = 0,
    attempt: int = 1,
    python: str,
    timeout: float | None = None,
    capture: bool = True,
    extra: Sequence[str] = (),
    allow_pickle: bool = True,
) -> LocalRun:
    """Run one job of an archive and return how it ended.

    :param archive: path of the archive or of the folder it was unpacked to, or its bytes.
    :param job: index or key of the job.
    :param python: interpreter.
    :param timeout: seconds after which the job is killed.
    :param capture: whether the job's output is kept instead of shown.
    :param extra: further options of the runner, such as ``--result-store URL``.
    :param allow_pickle: whether a cloudpickle value is unpickled: the archive is the caller's own.
    :raises ArchiveError: the archive has members that leave its directory.
    :raises OSError: the interpreter or the archive cannot be opened.
    :raises subprocess.TimeoutExpired: the job took too long.
    """
    index = job_index(str(job))
    secret = secrets.token_hex(32)
    with tempfile.TemporaryDirectory(prefix="airflow-panda-job-") as scratch:
        root = Path(scratch)
        if isinstance(archive, Path) and archive.is_dir():
            root = archive.resolve()
        else:
            content = archive if isinstance(archive, bytes) else archive.read_bytes()
            try:
                bootstrap.unpack(io.BytesIO(content), scratch)
            except bootstrap.BootstrapError as error:
                raise ArchiveError(str(error)) from None
        command = [python, str(root / "panda_runner" / "runner.py"), "--job", str(index), "--attempt", str(attempt)]
        command += ["--task-key", _TASK_KEY, "--secret", _SECRET_NAME, "--no-publish", *extra]
        settings = json.dumps({"version": 1, "instance_secret": secret, "broker": None})
        done = subprocess.run(  # noqa: S603 - a list, no shell: the caller's interpreter runs his own archive
            command,
            cwd=scratch,
            env={**os.environ, _SECRET_NAME: settings},
            stdin=subprocess.DEVNULL,
            capture_output=capture,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        path = Path(scratch, "jobReport.json")
        report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    result = value = problem = None
    if report:
        try:
            result = read_body(report, key=envelope.derive_key(secret, _TASK_KEY), task_key=_TASK_KEY)
            if result.returned and result.encoding != "reference":
                value = decode_value(result, allow_pickle=allow_pickle)
        except ValueDecodeError as error:
            problem = str(error)
        except PandaProviderError as error:
            problem = str(error)
    return LocalRun(
        exit_code=done.returncode,
        report=report,
        result=result,
        value=value,
        problem=problem,
        stdout=done.stdout or "",
        stderr=done.stderr or "",
    )
