"""The command and the environment of a payload, after panda-pilot 3.7 (facts/panda.md sections 8 and 11)."""

from __future__ import annotations

import base64
import binascii
import os
import shutil
from pathlib import Path
from typing import Final

from airflow_provider_panda.local.store import JobRow

_PASSED_ON: Final = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "LD_LIBRARY_PATH",
    "X509_USER_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)


class PayloadSetupError(Exception):
    """A payload cannot be started.

    :param code: pilotErrorCode.
    """

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(text)


def payload_command(transform: str, parameters: str, transforms: Path, scratch: Path) -> list[str]:
    """Return the command of a payload, after the name of its transform.

    :param transform: transPath of the task; only its last part counts.
    :param parameters: jobParameters as delivered.
    :param transforms: directory of further executables.
    :param scratch: working directory, into which such an executable is copied.
    :raises PayloadSetupError: the transform is not known, or the parameters are not what it takes.
    """
    name = transform.rstrip("/").rsplit("/", 1)[-1]
    if name in ("bash-c-enc", "bash-c-enc-new"):
        try:
            return ["/bin/bash", "-c", base64.b64decode("".join(parameters.split()), validate=True).decode()]
        except (binascii.Error, UnicodeDecodeError) as error:
            raise PayloadSetupError(1305, f"Failed to execute payload:{name}: no base64 ({error})") from None
    if name == "bash-c":
        return ["/bin/bash", "-c", parameters]
    source = transforms / name
    if not name or name.startswith(".") or not source.is_file():
        raise PayloadSetupError(
            1132, f"Failed to download transform: {transform} (no executable {name or '?'} in {transforms})"
        )
    shutil.copyfile(source, scratch / name)
    (scratch / name).chmod(0o755)
    return ["/bin/bash", "-c", f"./{name} {parameters}"]


def in_container(command: list[str], image: str, scratch: Path) -> list[str]:
    """Return a command that runs another in a container.

    :raises PayloadSetupError: neither apptainer nor singularity is installed here.
    """
    runtime = shutil.which("apptainer") or shutil.which("singularity")
    if runtime is None:
        raise PayloadSetupError(
            1305, f"Failed to execute payload:container {image} needs apptainer or singularity, and none is on PATH"
        )
    return [runtime, "exec", "--bind", str(scratch), "--pwd", str(scratch), image, *command]


def payload_environment(job: JobRow, scratch: Path, url: str) -> dict[str, str]:
    """Return the environment of a payload: the pilot's, and nothing of ours."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    queue = job.queue or ""
    return {
        **passed_on,
        "HOME": str(scratch),
        "TMPDIR": str(scratch / "tmp"),
        "PWD": str(scratch),
        "PANDAID": str(job.panda_id),
        "PanDA_TaskID": str(job.task_id),
        "PanDA_AttemptNr": str(job.attempt),
        "PANDA_JSID": "embedded",
        "PILOT_SITENAME": queue,
        "PANDA_RESOURCE": queue,
        "PANDA_SITE_NAME": queue,
        "PILOT_HOME": str(scratch),
        "PILOT_USER": "generic",
        "PANDA_SERVER_URL": url,
        "PANDACACHE_URL": f"{url}/server/panda",
    }


def last_line(path: Path, size: int = 4096) -> str:
    """Return the last line of a file that is not blank, shortened."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:400] for line in reversed(lines) if line.strip()), "")
