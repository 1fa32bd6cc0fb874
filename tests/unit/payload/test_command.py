"""The job's shell line: fetch, check the hash, unpack safely, compose the environment, become the runner."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import re
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_panda.exceptions import ConfigurationError
from airflow_provider_panda.payload import bootstrap, envelope
from airflow_provider_panda.payload.command import Environment, job_command
from airflow_provider_panda.payload.package import Archive, Delivery, build_archive
from airflow_provider_panda.payload.result import decode_value, read_body

KEY = b"k" * 32


def function(x: int) -> tuple[int, str | None]:
    import os

    return x + 1, os.environ.get("SETUP_RAN")


@pytest.fixture(scope="module")
def archive() -> Archive:
    return build_archive(function, per_job=[{"x": 10}, {"x": 20}], delivery=Delivery(signing_key=KEY))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A cache server as PanDA's: its URL, and the folder behind ``/cache``."""
    folder = tmp_path / "www" / "cache"
    folder.mkdir(parents=True)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder.parent))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    server.server_close()
    thread.join(10)


def line(archive: Archive, url: str, **environment: object) -> str:
    return job_command(
        archive=archive,
        cache_url=url,
        task_key="k",
        environment=Environment(**environment),  # type: ignore[arg-type]
        secret_name=None,
        result_store=None,
    )


def run(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a job line as PanDA and the pilot do."""
    folder.mkdir(exist_ok=True)
    text = text.replace("${IN/T}", "['j1']").replace("${ATTEMPTNR}", "2")
    return subprocess.run(["bash", "-c", text], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_the_line_holds_only_pandas_placeholders(archive: Archive) -> None:
    text = line(archive, "http://cache/", setup=("export A=$HOME",))
    assert re.findall(r"\$\{?[A-Z/]*\}?", text) == ["${IN/T}", "${ATTEMPTNR}"]
    assert f"http://cache/cache/{archive.name} {archive.sha256}" in text
    assert "\n" not in text
    with pytest.raises(ConfigurationError):
        line(archive, "http://$HOST")


def test_secret_name_and_store_are_passed_on(archive: Archive) -> None:
    text = job_command(
        archive=archive,
        cache_url="http://c",
        task_key="k",
        environment=Environment(),
        secret_name="AIRFLOW",
        result_store="file:///a b",
    )
    assert text.endswith("--task-key k --secret AIRFLOW --result-store 'file:///a b'")


def test_a_job_from_cache_to_report(archive: Archive, cache: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = cache
    (folder / archive.name).write_bytes(archive.content)
    done = run(line(archive, url, setup=("export SETUP_RAN=yes", "true # comment")), tmp_path / "job")
    assert done.returncode == 0, done.stderr
    result = read_body((tmp_path / "job" / "jobReport.json").read_text(), key=KEY, task_key="k")
    assert (result.job, result.attempt, decode_value(result)) == (1, 2, (21, "yes"))
    assert not (tmp_path / "job" / bootstrap.ARCHIVE).exists()


def problem(done: subprocess.CompletedProcess[str], folder: Path) -> str:
    assert done.returncode == bootstrap.EXIT_BOOTSTRAP, done
    report = json.loads((folder / "jobReport.json").read_text())
    assert report["exitCode"] == bootstrap.EXIT_BOOTSTRAP
    assert done.stderr.strip() == f"airflow-panda: {report['exitMsg']}"
    return str(report["exitMsg"])


def test_an_archive_of_another_hash_is_not_unpacked(archive: Archive, cache: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = cache
    other = build_archive(function, kwargs={"x": 1})
    (folder / archive.name).write_bytes(other.content)
    told = problem(run(line(archive, url), tmp_path / "job"), tmp_path / "job")
    assert f"has hash {other.sha256}, and {archive.sha256} was submitted" in told
    assert not (tmp_path / "job" / "manifest.json").exists()


def test_an_archive_that_is_gone(archive: Archive, cache: tuple[str, Path], tmp_path: Path) -> None:
    told = problem(run(line(archive, cache[0]), tmp_path / "job"), tmp_path / "job")
    assert "HTTP 404; PanDA deletes cache files 7 days" in told


def test_an_interpreter_that_is_not_there(archive: Archive, cache: tuple[str, Path], tmp_path: Path) -> None:
    (cache[1] / archive.name).write_bytes(archive.content)
    told = problem(run(line(archive, cache[0], python="/no/python3"), tmp_path / "job"), tmp_path / "job")
    assert "cannot start /no/python3" in told


def test_a_setup_line_that_fails(archive: Archive, cache: tuple[str, Path], tmp_path: Path) -> None:
    (cache[1] / archive.name).write_bytes(archive.content)
    done = run(line(archive, cache[0], setup=("true", "source /cvmfs/none 2>/dev/null || (exit 3)")), tmp_path / "job")
    assert problem(done, tmp_path / "job") == "setup line 2 ended with exit code 3"


def test_download_tries_again_after_what_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[object] = [OSError("reset"), OSError("reset"), b"content"]

    class Answer(io.BytesIO):
        headers: dict[str, str] = {"Content-Length": "7"}  # noqa: RUF012

    def urlopen(url: str, timeout: float) -> Answer:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, bytes)
        return Answer(answer)

    monkeypatch.setattr(bootstrap, "urlopen", urlopen)
    target = str(tmp_path / "file")
    assert bootstrap.download("http://x", target, pause=0.01) == hashlib.sha256(b"content").hexdigest()
    answers.extend([b"short", b"short"])
    with pytest.raises(bootstrap.BootstrapError, match="only 5 of 7 bytes"):
        bootstrap.download("http://x", target, attempts=2, pause=0.01)


def tar_of(*entries: tarfile.TarInfo) -> io.BytesIO:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for entry in entries:
            tar.addfile(entry, io.BytesIO(b"x" * entry.size))
    return io.BytesIO(gzip.compress(raw.getvalue()))


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = 1 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    "member",
    [
        entry("/etc/x"),
        entry("../x"),
        entry("a/../../x"),
        entry("a\\..\\x"),
        entry("link", tarfile.SYMTYPE, "/etc/passwd"),
        entry("link", tarfile.LNKTYPE, "good"),
        entry("device", tarfile.CHRTYPE),
        entry("fifo", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name} {member.type!r}",
)
def test_members_that_leave_the_directory_stop_everything(member: tarfile.TarInfo, tmp_path: Path) -> None:
    with pytest.raises(bootstrap.BootstrapError, match="no plain file"):
        bootstrap.unpack(tar_of(entry("good"), member), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"noise", gzip.compress(b"noise")[:-3]], ids=["empty", "noise", "cut"])
def test_what_is_no_archive(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(bootstrap.BootstrapError, match="cannot be unpacked"):
        bootstrap.unpack(io.BytesIO(content), str(tmp_path))


@pytest.mark.parametrize(
    ("environment", "command"),
    [
        ({}, ["python3", "panda_runner/runner.py", "--job", "j 0"]),
        ({"python": "/opt/p -X dev"}, ["/opt/p", "-X", "dev", "panda_runner/runner.py", "--job", "j 0"]),
        ({"container": "img", "container_runtime": "panda"}, ["python3", "panda_runner/runner.py", "--job", "j 0"]),
    ],
)
def test_compose(environment: dict[str, object], command: list[str]) -> None:
    assert bootstrap.compose(environment, ["--job", "j 0"]) == command


def test_compose_in_order() -> None:
    words = bootstrap.compose(
        {"setup": ["one", "two"], "container": "docker://i", "container_runtime": "apptainer", "python": "python3.11"},
        ["--job", "['j0']"],
    )
    assert words[:2] == ["bash", "-c"]
    lines = words[2].split("\n")
    assert [lines[0], lines[2]] == ["one", "two"]
    here = Path.cwd()
    assert lines[4] == (
        f"exec apptainer exec --bind {here} --pwd {here} docker://i"
        " python3.11 panda_runner/runner.py --job '['\"'\"'j0'\"'\"']'"
    )


@pytest.mark.parametrize("wrong", [{"setup": "one text"}, {"container_runtime": "docker"}, {"python": " "}])
def test_wrong_environments(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Environment(**wrong)  # type: ignore[arg-type]


def test_exit_codes_differ() -> None:
    from airflow_provider_panda.payload import runner

    codes = [
        runner.EXIT_RAISED,
        runner.EXIT_REFUSED,
        runner.EXIT_UNFIT,
        runner.EXIT_UNDELIVERED,
        bootstrap.EXIT_BOOTSTRAP,
    ]
    assert codes == [71, 72, 73, 74, 75]
    assert envelope.VERSION == 1
