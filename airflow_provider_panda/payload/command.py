"""The shell line of a job: the bootstrap's text, the archive's address and hash, and the runner's options."""

from __future__ import annotations

import base64
import json
import shlex
import zlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from airflow_provider_panda.exceptions import ConfigurationError

from .package import Archive


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What is set up on the worker node around the function, in the order of the fields.

    :param setup: shell lines, run one after the other; one that fails ends the job.
    :param container: image, or None.
    :param container_runtime: "panda": PanDA's ``container_name``; "apptainer": an ``apptainer exec`` prefix.
    :param python: interpreter, a name or a path.
    """

    setup: tuple[str, ...] = ()
    container: str | None = None
    container_runtime: Literal["panda", "apptainer"] = "panda"
    python: str = "python3"

    def __post_init__(self) -> None:
        given: object = self.setup
        if isinstance(given, str):
            raise ConfigurationError("environment, setup", "it is one text", "Give a list of shell lines")
        object.__setattr__(self, "setup", tuple(self.setup))
        if self.container_runtime not in ("panda", "apptainer"):
            raise ConfigurationError(
                "environment, container_runtime", f"{self.container_runtime!r} is unknown", 'Use "panda" or "apptainer"'
            )
        try:
            words = shlex.split(self.python)
        except ValueError as error:
            raise ConfigurationError(
                "environment, python", f"{self.python!r}: {error}", "Close the quotation"
            ) from None
        if not words:
            raise ConfigurationError("environment, python", "it is empty", 'Leave it out for "python3"')


def job_command(
    *,
    archive: Archive,
    cache_url: str,
    task_key: str,
    environment: Environment,
    secret_name: str | None,
    result_store: str | None,
) -> str:
    """Return the line that runs one job; PanDA replaces ``${IN/T}`` and ``${ATTEMPTNR}`` in it.

    :param archive: what runs.
    :param cache_url: base URL of PanDA's cache server as worker nodes reach it.
    :param task_key: key of the task.
    :param environment: what is set up around the function.
    :param secret_name: user secret with signing key and broker; None: the archive carries them.
    :param result_store: base URL for large results, or None.
    :raises ConfigurationError: a URL holds a character that PanDA would replace.
    """
    url = f"{cache_url.rstrip('/')}/cache/{archive.name}"
    words = [url, archive.sha256, _encoded(environment)]
    options = ["--task-key", task_key]
    if secret_name is not None:
        options += ["--secret", secret_name]
    if result_store is not None:
        options += ["--result-store", result_store]
    for word in (*words, *options):
        if "$" in word or "\n" in word:
            raise ConfigurationError("job command", f"{word!r} holds a $ or a line break", "Take it out")
    return " ".join(
        [
            f"""python3 -c "import base64,zlib;exec(zlib.decompress(base64.b64decode('{_bootstrap()}')))\"""",
            shlex.join(words),
            '--job "${IN/T}" --attempt ${ATTEMPTNR}',
            shlex.join(options),
        ]
    )


def wrapped_command(*, archive: Archive, task_key: str, environment: Environment, result_store: str | None) -> str:
    """Return what iDDS's wrapper puts before its own script: a work's ``init_env`` (facts/idds.md section 10).

    The wrapper has unpacked the archive into the working directory by then, unchecked: the runner checks the files
    against the hash given here. The script, the last word of the line that runs, tells which job it is.

    :param archive: what runs.
    :param task_key: key of the task.
    :param environment: what is set up around the function.
    :param result_store: base URL for large results, or None.
    :raises ConfigurationError: a word holds a character that the wrapper or a shell would take for its own.
    """
    options = ["--task-key", task_key, "--manifest", archive.manifest_sha256]
    if result_store is not None:
        options += ["--result-store", result_store]
    if environment.setup or (environment.container and environment.container_runtime == "apptainer"):
        words = ["python3", "panda_runner/bootstrap.py", "--unpacked", _encoded(environment), *options]
    else:
        words = [*shlex.split(environment.python), "panda_runner/runner.py", *options]
    for word in words:
        # iDDS parts the line at each semicolon.
        if set(word) & set("$;\n`\"'\\"):
            raise ConfigurationError(
                "job command", f"{word!r} holds a character that means something to a shell", "Take it out"
            )
    return shlex.join(words)


def _encoded(environment: Environment) -> str:
    text = json.dumps(asdict(environment), sort_keys=True)
    return base64.b64encode(text.encode()).decode()


@lru_cache(maxsize=1)
def _bootstrap() -> str:
    text = Path(__file__).with_name("bootstrap.py").read_bytes()
    return base64.b64encode(zlib.compress(text, 9)).decode()
