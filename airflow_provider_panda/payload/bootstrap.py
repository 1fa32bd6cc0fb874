"""First thing that runs on a worker node: fetch the archive, check its hash, unpack it, start the runner.

Its text travels in the job parameters (see ``command``): standard library only, Python 3.6 and newer.
Arguments: URL of the archive, its SHA-256, the environment as base64 of JSON, then the runner's own options. Where
iDDS's wrapper has unpacked the archive already, ``--unpacked`` stands in place of URL and hash, and the runner checks
the files.
"""

import base64
import hashlib
import json
import os
import random
import shlex
import shutil
import sys
import tarfile
import time
from http.client import HTTPException
from typing import Any, BinaryIO, Dict, List
from urllib.error import HTTPError
from urllib.request import urlopen

EXIT_BOOTSTRAP = 75
ATTEMPTS = 6
TIMEOUT = 60.0
SIZE_LIMIT = 1 << 32
"""Bytes of an archive, and of what is in it."""
MEMBERS_LIMIT = 100000
ARCHIVE = "airflow_panda_archive.tar.gz"
RUNNER = os.path.join("panda_runner", "runner.py")


class BootstrapError(Exception):
    """The job cannot be started; the text says why."""


def download(url: str, path: str, attempts: int = ATTEMPTS, pause: float = 1.0) -> str:
    """Fetch a file and return its SHA-256; tries again after what may pass (no connection, 5xx, 408, 429)."""
    problem = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1) * random.uniform(0.7, 1.3))  # noqa: S311 - spreads attempts
        digest = hashlib.sha256()
        try:
            with urlopen(url, timeout=TIMEOUT) as answer, open(path, "wb") as file:  # noqa: S310 - hash checked
                expected = answer.headers.get("Content-Length")
                for chunk in iter(lambda: answer.read(1 << 16), b""):
                    digest.update(chunk)
                    file.write(chunk)
                    if file.tell() > SIZE_LIMIT:
                        raise BootstrapError("the archive %s is over %d bytes" % (url, SIZE_LIMIT))
                size = file.tell()
            if expected is not None and expected.isdigit() and size != int(expected):
                problem = "only %d of %s bytes came" % (size, expected)
                continue
            return digest.hexdigest()
        except HTTPError as error:
            problem = "HTTP %d" % error.code
            if error.code < 500 and error.code not in (408, 429):
                break
        except (OSError, HTTPException, ValueError) as error:
            problem = "%s" % error
    hint = "; PanDA deletes cache files 7 days after their last touch" if problem == "HTTP 404" else ""
    raise BootstrapError("cannot fetch the archive %s: %s%s" % (url, problem, hint))


def unpack(file: BinaryIO, directory: str) -> None:
    """Unpack an archive of plain files.

    One that has anything else, leads outside, names a file twice, or is larger than the limits is not unpacked at all.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:gz") as tar:
            members = {}  # type: Dict[str, tarfile.TarInfo]
            size = 0
            for member in tar:
                parts = member.name.split("/")
                outside = {"", ".", ".."}.intersection(parts) or "\\" in member.name or "\0" in member.name
                if outside or member.name in members or not (member.isreg() or member.isdir()):
                    raise BootstrapError("the archive holds %r, which is no plain file of its directory" % member.name)
                members[member.name] = member
                size += member.size
                if size > SIZE_LIMIT or len(members) > MEMBERS_LIMIT:
                    raise BootstrapError("the archive holds over %d bytes or %d files" % (SIZE_LIMIT, MEMBERS_LIMIT))
            for member in members.values():
                path = os.path.join(directory, *member.name.split("/"))
                if member.isdir():
                    os.makedirs(path, exist_ok=True)
                    continue
                os.makedirs(os.path.dirname(path), exist_ok=True)
                content = tar.extractfile(member)
                if content is None:
                    raise BootstrapError("the archive holds %r without content" % member.name)
                with open(path, "wb") as target:
                    shutil.copyfileobj(content, target)
    except BootstrapError:
        raise
    except Exception as error:  # what a broken archive provokes in tarfile, gzip and zlib is of many kinds
        raise BootstrapError("the archive cannot be unpacked: %s" % error) from None


def fetch(url: str, expected: str) -> None:
    """Fetch the archive, check its hash, and unpack it here."""
    found = download(url, ARCHIVE)
    if found != expected:
        raise BootstrapError(
            "the archive %s has hash %s, and %s was submitted: nothing of it was unpacked" % (url, found, expected)
        )
    with open(ARCHIVE, "rb") as file:
        unpack(file, os.getcwd())
    os.remove(ARCHIVE)


def compose(environment: Dict[str, Any], options: List[str]) -> List[str]:
    """Return the command that runs the runner: setup lines, then the container, then the interpreter."""
    command = [*shlex.split(environment.get("python") or "python3"), RUNNER, *options]
    container = environment.get("container")
    here = os.getcwd()
    if container and environment.get("container_runtime") == "apptainer":
        command = ["apptainer", "exec", "--bind", here, "--pwd", here, container, *command]
    setup = environment.get("setup") or []
    if not setup:
        return command
    lines = []
    for number, line in enumerate(setup, 1):
        message = "setup line %d ended with exit code" % number
        report = '{"exitCode": %d, "exitMsg": "%s %%d"}' % (EXIT_BOOTSTRAP, message)
        lines.append(line)
        lines.append(
            "_airflow_panda=$?; if [ $_airflow_panda -ne 0 ]; then"
            ' echo "airflow-panda: %s $_airflow_panda" >&2;'
            " printf '%s' $_airflow_panda > jobReport.json; exit %d; fi" % (message, report, EXIT_BOOTSTRAP)
        )
    lines.append("exec " + " ".join(shlex.quote(word) for word in command))
    return ["bash", "-c", "\n".join(lines)]


def main(argv: List[str]) -> int:
    """Fetch, check, unpack and become the runner; returns only if that fails."""
    try:
        if argv[0] == "--unpacked":
            encoded, options = argv[1], argv[2:]
        else:
            encoded, options = argv[2], argv[3:]
            fetch(argv[0], argv[1])
        command = compose(json.loads(base64.b64decode(encoded).decode()), options)
        sys.stdout.flush()
        try:
            os.execvp(command[0], command)  # noqa: S606 - a list, no shell
        except OSError as error:
            raise BootstrapError("cannot start %s: %s" % (command[0], error)) from None
    except Exception as error:
        kind = "" if isinstance(error, BootstrapError) else type(error).__name__ + ": "
        line = " ".join(("%s%s" % (kind, error)).split())
        sys.stderr.write("airflow-panda: %s\n" % line)
        try:
            with open("jobReport.json", "w") as report:
                json.dump({"exitCode": EXIT_BOOTSTRAP, "exitMsg": line[:400]}, report)
        except OSError:
            pass
    return EXIT_BOOTSTRAP


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
