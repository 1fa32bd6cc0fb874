"""A job that iDDS's wrapper starts: the script that idds-workflow itself writes, our runner in place of iDDS's own."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_panda.exceptions import ConfigurationError
from airflow_provider_panda.grid.idds.work import RunRequest, Site, transform_properties
from airflow_provider_panda.grid.task import TaskSpec
from airflow_provider_panda.payload import bootstrap, envelope, runner
from airflow_provider_panda.payload.command import Environment, wrapped_command
from airflow_provider_panda.payload.package import Archive, Delivery, build_archive
from airflow_provider_panda.payload.report import idds_ids
from airflow_provider_panda.payload.result import decode_value, read_body
from tests.integration.payload.interpreters import find_interpreter

TASK = "afabcdefghijklmnopqr"
KEY = b"k" * 32
REQUEST, TRANSFORM, JOB, ATTEMPT = 70, 9, 1, 3

RUNNER_OF = """
import json, sys
from idds.common.utils import json_loads
given = json.load(sys.stdin)
work = json_loads(json.dumps(given["work"]))
work.request_id, work.transform_id = given["request_id"], given["transform_id"]
print(work.get_runner())
"""
"""What iDDS's submitter makes of a work (idds 2.6.21, carrier/plugins/base.py)."""


def function(x: int) -> tuple[int, str | None]:
    import os

    return x + 1, os.environ.get("SETUP_RAN")


@dataclass
class Wrapped:
    """A job as it stands on a worker node when the wrapper hands over.

    :param line: the command that the wrapper evaluates.
    :param folder: working directory, the archive unpacked in it.
    """

    line: str
    folder: Path

    @property
    def script(self) -> str:
        return (self.folder / "run_workflow.sh").read_text()

    def run(self, *more: str, line: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", line or self.line]
        return subprocess.run(
            command, cwd=self.folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip

    def result(self) -> Any:
        return read_body((self.folder / "jobReport.json").read_text(), key=KEY, task_key=TASK)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A cache server as PanDA's: its URL, and the folder behind ``/cache``."""
    top = tmp_path_factory.mktemp("www")
    (top / "cache").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(top))

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", top / "cache"
    server.shutdown()
    server.server_close()
    thread.join(10)


def archive(**delivery: Any) -> Archive:
    return build_archive(
        function, per_job=[{"x": 10}, {"x": 20}], delivery=Delivery(signing_key=KEY, **delivery)
    )  # fmt: skip


def wrapped(cache: tuple[str, Path], folder: Path, packed: Archive, environment: Environment) -> Wrapped:
    """Let idds-workflow make the command of our work, PanDA replace its words, and the wrapper's script parse it."""
    url, files = cache
    (files / packed.name).write_bytes(packed.content)
    command = wrapped_command(archive=packed, task_key=TASK, environment=environment, result_store=None)
    spec = TaskSpec(key=TASK, name=f"n-{TASK}", n_jobs=2, command=command, archive_name=packed.name)
    site = Site(panda_url=url, cache_url=url, vo="wlcg")
    work = transform_properties(spec, RunRequest(name="r", token="t" * 32), REQUEST, site)["transform_metadata"]["work"]
    given = {"work": work, "request_id": REQUEST, "transform_id": TRANSFORM}
    made = subprocess.run(
        [sys.executable, "-c", RUNNER_OF],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    job_key = base64.b64encode(json.dumps(f"j{JOB}").encode()).decode()
    line = made.stdout.splitlines()[-1].replace("${IN/T}", job_key).replace("${ATTEMPTNR}", str(ATTEMPT))
    node = {
        **os.environ,
        "PANDA_AUTH": "oidc", "PANDA_AUTH_ID_TOKEN": "t", "PANDA_AUTH_VO": "wlcg", "PANDA_CONFIG_ROOT": str(folder),
        "PANDA_BEHIND_REAL_LB": "true", "PANDA_VERIFY_HOST": "off",
        "PANDA_URL": f"{url}/server/panda", "PANDA_URL_SSL": f"{url}/server/panda",
        "PANDACACHE_URL": f"{url}/server/panda",
    }  # fmt: skip
    parser = Path(sys.executable).parent / "idds_parse_workflow_args"
    done = subprocess.run(
        [sys.executable, str(parser), *shlex.split(line)],
        cwd=folder,
        env=node,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "run_workflow.sh").exists(), done.stderr
    assert (folder / "manifest.json").exists(), done.stderr  # unpacked by iDDS's own code
    return Wrapped(line=done.stdout.splitlines()[-1], folder=folder)


Make = Callable[..., Wrapped]


@pytest.fixture
def make(cache: tuple[str, Path], tmp_path: Path) -> Make:
    def made(packed: Archive | None = None, **environment: Any) -> Wrapped:
        return wrapped(
            cache, tmp_path, packed or archive(), Environment(**{"python": sys.executable, **environment})
        )  # fmt: skip

    return made


@pytest.fixture(scope="module")
def handed_over(cache: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Wrapped:
    """One for all tests that copy what they change."""
    return wrapped(cache, tmp_path_factory.mktemp("node"), archive(), Environment(python=sys.executable))


@pytest.fixture
def job(handed_over: Wrapped, tmp_path: Path) -> Wrapped:
    """A copy of it."""
    folder = tmp_path / "copy"
    shutil.copytree(handed_over.folder, folder)
    return Wrapped(line=handed_over.line, folder=folder)


def test_the_line_is_our_command_with_the_script_as_its_last_word(job: Wrapped) -> None:
    words = shlex.split(job.line)
    assert words[:2] == [sys.executable, "panda_runner/runner.py"]
    assert words[-1] == "./run_workflow.sh"


def test_the_script_says_which_job_it_is(job: Wrapped) -> None:
    options = runner.parse(["--task-key", TASK, "--manifest", "00", str(job.folder / "run_workflow.sh")])
    assert (options.job, options.attempt, options.task_key, options.manifest) == (JOB, ATTEMPT, TASK, "00")
    assert idds_ids(runner.Job("", options)) == (REQUEST, TRANSFORM)


def test_the_value_comes_home(job: Wrapped) -> None:
    done = job.run(PANDAID="42")
    assert done.returncode == 0, done.stderr
    result = job.result()
    assert (result.job, result.attempt, result.panda_id) == (JOB, ATTEMPT, 42)
    assert decode_value(result) == (21, None)


def test_setup_runs_before_it_and_is_told_when_it_fails(make: Make) -> None:
    given = make(setup=["export SETUP_RAN=yes; true", """echo 'a "quote", a;b and a' "$SETUP_RAN" """])
    assert "bootstrap.py --unpacked" in given.line
    done = given.run()
    assert done.returncode == 0, done.stderr
    assert decode_value(given.result()) == (21, "yes")
    assert done.stdout == 'a "quote", a;b and a yes\n'


def test_setup_that_fails_ends_the_job(make: Make) -> None:
    given = make(setup=["exit_code() { return 7; }", "exit_code"])
    done = given.run()
    assert done.returncode == bootstrap.EXIT_BOOTSTRAP
    assert json.loads((given.folder / "jobReport.json").read_text())["exitMsg"] == "setup line 2 ended with exit code 7"


def test_a_runtime_that_is_not_there_is_told(make: Make) -> None:
    given = make(container="docker://image", container_runtime="apptainer")
    done = given.run(PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin")
    assert done.returncode == bootstrap.EXIT_BOOTSTRAP
    assert "cannot start apptainer" in json.loads((given.folder / "jobReport.json").read_text())["exitMsg"]


@pytest.mark.parametrize(
    "name", ["function.py", "arguments.json", "jobs.jsonl", "delivery.json", "panda_runner/report.py"]
)
def test_changed_files_are_refused_and_nothing_is_run(job: Wrapped, name: str) -> None:
    mark = job.folder / "ran"
    changed = job.folder / name
    changed.write_text(changed.read_text() + f"\n# {mark}\n")
    if name == "function.py":
        changed.write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n" + changed.read_text())
    done = job.run()
    assert done.returncode == runner.EXIT_REFUSED
    assert not mark.exists()
    report = json.loads((job.folder / "jobReport.json").read_text())
    assert report["exitMsg"].startswith(f"ArchiveChanged: {name} of the archive is not what was submitted")
    assert envelope.BODY_KEY not in report  # no key that could be trusted: nothing is signed


def test_a_changed_manifest_is_refused(job: Wrapped) -> None:
    manifest = json.loads((job.folder / "manifest.json").read_text())
    (job.folder / "function.py").write_text("raise SystemExit('ran')\n")
    manifest["members"]["function.py"] = hashlib.sha256((job.folder / "function.py").read_bytes()).hexdigest()
    (job.folder / "manifest.json").write_text(json.dumps(manifest))
    done = job.run()
    assert done.returncode == runner.EXIT_REFUSED
    assert "ArchiveChanged: manifest.json of the archive" in done.stderr


def test_a_missing_file_is_refused(job: Wrapped) -> None:
    (job.folder / "arguments.json").unlink()
    assert "ArchiveChanged: arguments.json" in job.run().stderr


def test_files_that_others_left_there_do_not_matter(job: Wrapped) -> None:
    (job.folder / "stray.txt").write_text("of the pilot")
    assert job.run().returncode == 0


@pytest.mark.parametrize("minor", [9, 10, 11, 12, 13])
def test_every_python_of_a_worker_node(job: Wrapped, minor: int) -> None:
    python = find_interpreter(minor)
    if python is None:
        pytest.skip(f"no Python 3.{minor} here")
    done = job.run(line=job.line.replace(sys.executable, python, 1))
    assert done.returncode == 0, done.stderr
    result = job.result()
    assert (decode_value(result), result.attempt) == ((21, None), ATTEMPT)
    assert result.python.startswith(f"3.{minor}.")
    changed = job.folder / "jobs.jsonl"
    changed.write_text(changed.read_text().replace("20", "21"))
    assert job.run(line=job.line.replace(sys.executable, python, 1)).returncode == runner.EXIT_REFUSED


class Broker:
    """Takes one STOMP message and confirms it."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.message: tuple[dict[str, str], str] | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection, connection.makefile("rb") as lines:
            self._frame(lines)
            connection.sendall(b"CONNECTED\nversion:1.2\n\n\x00")
            headers, body = self._frame(lines)
            self.message = headers, body
            connection.sendall(f"RECEIPT\nreceipt-id:{headers['receipt']}\n\n\x00".encode())
            lines.read(1)

    @staticmethod
    def _frame(lines: Any) -> tuple[dict[str, str], str]:
        while not (_ := lines.readline().strip()):
            pass
        headers = {}
        while line := lines.readline().decode().strip():
            name, _, value = line.partition(":")
            headers.setdefault(name, value)
        body = b""
        while (byte := lines.read(1)) != b"\x00":
            body += byte
        return headers, body.decode()

    def close(self) -> None:
        self._thread.join(30)
        self._listening.close()


def test_the_message_is_one_that_idds_takes(make: Make) -> None:
    broker = Broker()
    settings = {
        "addresses": [["127.0.0.1", broker.port]],
        "destination": "/topic/results",
        "login": "u",
        "passcode": "p",
    }
    given = make(archive(broker=settings))
    done = given.run()
    broker.close()
    assert done.returncode == 0, done.stderr
    assert broker.message is not None
    headers, body = broker.message
    assert headers["destination"] == "/topic/results"
    expected = {
        "channel": "asyncresult",
        "type": "iwork",
        "internal_id": TASK,
        "request_id": str(REQUEST),
        "transform_id": str(TRANSFORM),
        "persistent": "true",
    }
    assert {name: headers.get(name) for name in expected} == expected
    content = json.loads(body)
    assert (content["request_id"], content["transform_id"], content["internal_id"]) == (REQUEST, TRANSFORM, TASK)
    assert content["ret"][0] is True
    assert content["key"] == str(JOB)
    assert decode_value(read_body(body, key=KEY, task_key=TASK)) == (21, None)


# --- its parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ('"run_workflow" "--key" "3" "--context" "abc="\n', "abc="),
        ('echo "--context" "early"\n"x" "--context" "late"\n', "late"),
        ('"--context" ""', ""),
        ('"--contextual" "x"', ""),
        ("--context abc", ""),
        ("", ""),
    ],
)
def test_words_of_the_script(script: str, word: str) -> None:
    assert runner.wrapped_word(script, "--context") == word


def script(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "s.sh").write_text(text)
    return ["--task-key", TASK, str(tmp_path / "s.sh")]


@pytest.mark.parametrize(
    ("given", "job", "attempt"),
    [
        ('"--key" "4" "--current_job_kwargs" "ImoxMiI="', 12, 4),
        ('"--key" "None" "--current_job_kwargs" "ImoxMiI="', 12, 1),
        ('"--key" "${ATTEMPTNR}" "--current_job_kwargs" "ImowIg=="', 0, 1),
        ('"--current_job_kwargs" "000001:ImoxIg=="', 1, 1),
        ('"--current_job_kwargs" "j7"', 7, 1),
    ],
)
def test_job_and_attempt_of_a_script(tmp_path: Path, given: str, job: int, attempt: int) -> None:
    options = runner.parse(script(tmp_path, given))
    assert (options.job, options.attempt) == (job, attempt)


@pytest.mark.parametrize(
    "given", ["", '"--current_job_kwargs" ""', '"--current_job_kwargs" "InBzZXVkb19maWxlIg=="', "x"]
)
def test_a_script_that_names_no_job(tmp_path: Path, given: str) -> None:
    with pytest.raises(ValueError, match="job key"):
        runner.parse(script(tmp_path, given))


def test_a_script_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert runner.main(["--task-key", TASK, str(tmp_path / "none.sh")], str(tmp_path)) == runner.EXIT_REFUSED
    assert "none.sh" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "index"),
    [("ImowIg==", 0), ("ImoxMjM0NSI=", 12345), ("000007:Imo3Ig==", 7), ("['Imo3Ig==']", 7), ("Nw==", 7), ("j12", 12)],
)
def test_job_keys_in_base64_of_json(key: str, index: int) -> None:
    assert runner.job_index(key) == index


@pytest.mark.parametrize("key", ["InBzZXVkb19maWxlIg==", "!!!!", "Imow", "////", "eyJhIjogMX0="])
def test_other_base64(key: str) -> None:
    with pytest.raises(ValueError, match="job key"):
        runner.job_index(key)


@pytest.mark.parametrize(
    "text", ["", '"--context" "%%%"', '"--context" "e30="', '"--context" "W10="', '"--context" "bnVsbA=="']
)
def test_ids_that_a_script_does_not_tell(text: str) -> None:
    options = runner.Options()
    options.wrapped = text
    assert idds_ids(runner.Job("", options)) == (None, None)


# --- the command ----------------------------------------------------------------------------------------------


def command(**fields: Any) -> str:
    store = fields.pop("result_store", None)
    task_key = fields.pop("task_key", TASK)
    return wrapped_command(
        archive=archive(), task_key=task_key, environment=Environment(**fields), result_store=store
    )  # fmt: skip


def test_without_an_environment_the_runner_is_started_itself() -> None:
    packed = archive()
    assert shlex.split(command(python="/opt/python/bin/python3 -E")) == [
        "/opt/python/bin/python3", "-E", "panda_runner/runner.py",
        "--task-key", TASK, "--manifest", packed.manifest_sha256,
    ]  # fmt: skip


def test_a_container_of_panda_needs_no_bootstrap() -> None:
    assert command(container="docker://x").startswith("python3 panda_runner/runner.py ")


def test_an_environment_travels_encoded() -> None:
    words = shlex.split(command(setup=["a; b", 'echo "$X"'], result_store="https://store/x"))
    assert words[:3] == ["python3", "panda_runner/bootstrap.py", "--unpacked"]
    assert json.loads(base64.b64decode(words[3]))["setup"] == ["a; b", 'echo "$X"']
    assert words[-2:] == ["--result-store", "https://store/x"]


@pytest.mark.parametrize("character", [*"$;`\"'\\", "\n"])
def test_characters_that_mean_something_to_a_shell_are_refused(character: str) -> None:
    with pytest.raises(ConfigurationError, match="means something to a shell"):
        command(result_store=f"https://store/{character}x")
    with pytest.raises(ConfigurationError, match="means something to a shell"):
        command(task_key=f"af{character}")


@pytest.mark.parametrize(
    "python", ["python3; rm -rf x", "$PYTHON", "`which python`", "python3 -c 'import x;y'", 'py"x;"', "py'"]
)
def test_interpreters_that_are_more_than_words_are_refused(python: str) -> None:
    with pytest.raises(ConfigurationError):
        command(python=python)


@pytest.mark.parametrize(
    "store", ["https://s/a b", "https://s/a&b", "https://s/?a=1&b=2", "https://s/(x)", "https://s/*"]
)
def test_other_words_reach_the_runner_as_they_are(store: str) -> None:
    """The wrapper evaluates the line in a shell."""
    line = command(result_store=store)
    assert ";" not in line
    done = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == store


def test_the_archive_unpacks_as_the_manifest_says(tmp_path: Path) -> None:
    packed = archive()
    bootstrap.unpack(io.BytesIO(packed.content), str(tmp_path))
    assert hashlib.sha256((tmp_path / "manifest.json").read_bytes()).hexdigest() == packed.manifest_sha256
    members = json.loads((tmp_path / "manifest.json").read_text())["members"]
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {*members, "manifest.json"}
