"""How jobs end: value, exception, refusal or an unfit node, each told by exit code, report and one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from airflow_provider_panda.exceptions import ValueDecodeError
from airflow_provider_panda.payload import __main__ as command_line
from airflow_provider_panda.payload import bootstrap, envelope, local_run, runner
from airflow_provider_panda.payload.package import Delivery, build_archive
from airflow_provider_panda.payload.reference import fetch_reference
from airflow_provider_panda.payload.report import TRACEBACK_LIMIT
from airflow_provider_panda.payload.result import decode_value, read_body


def run(function: Any, *, extra: tuple[str, ...] = (), job: str = "0", **options: Any) -> local_run.LocalRun:
    content = build_archive(function, **options).content
    return local_run.run_archive(content, python=sys.executable, extra=extra, job=job, timeout=60)


@pytest.mark.parametrize("key", ["0", "j0", "['j0']", '["j0"]', "000000:j0", " j0 "])
def test_job_keys(key: str) -> None:
    assert runner.job_index(key) == 0


@pytest.mark.parametrize("key", ["", "x", "j", "-1", "['j0', 'j1']", "j٣"])
def test_bad_job_keys(key: str) -> None:
    with pytest.raises(ValueError, match="job key"):
        runner.job_index(key)


def test_unknown_words_are_left_for_later() -> None:
    options = runner.parse(["./run_workflow.sh", "--job", "j2", "--task-key", "k", "--attempt", "3"])
    assert (options.job, options.attempt, options.task_key, options.rest) == (2, 3, "k", ["./run_workflow.sh"])


def test_each_job_has_its_own_arguments() -> None:
    def function(a: int, b: int = 0, *, c: int = 0) -> tuple[int, int, int]:
        return a, b, c

    for job in (0, 1):
        done = run(function, args=(1,), kwargs={"b": 2}, per_job=[{"c": 3}, {"b": 4, "c": 5}], job=f"['j{job}']")
        assert done.value == [(1, 2, 3), (1, 4, 5)][job]
    assert run(function, args=(1,), job="7").report["exitMsg"].startswith("NoSuchJob: the archive has 1 jobs")


def test_an_exception_is_reported_with_its_lines(bad: ModuleType) -> None:
    done = run(bad.raises, args=(5,))
    assert done.exit_code == runner.EXIT_RAISED
    assert done.result is not None
    error = done.result.exception
    assert error is not None
    assert (error.type, error.message) == ("ValueError", "bad 5")
    assert 'raise ValueError("bad %s" % inner)' in error.traceback
    assert "in raises" in error.traceback
    assert "runner.py" not in error.traceback
    assert done.report["exitMsg"] == "ValueError: bad 5"


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("exits", "SystemExit", "SystemExit: 0"),
        ("interrupted", "KeyboardInterrupt", "KeyboardInterrupt"),
        ("raises_without_end", "RecursionError", "repeated"),
        ("raises_chain", "RuntimeError", "direct cause"),
        ("raises_rudely", "function.Rude", "Rude"),
    ],
)
def test_whatever_user_code_raises_is_its_exception(bad: ModuleType, name: str, kind: str, text: str) -> None:
    done = run(getattr(bad, name))
    assert done.exit_code == runner.EXIT_RAISED
    assert done.result is not None
    assert done.result.exception is not None
    assert done.result.status == envelope.RAISED
    assert done.result.exception.type == kind
    assert text in done.result.exception.traceback


def test_long_tracebacks_keep_head_and_tail(bad: ModuleType) -> None:
    done = run(bad.raises_longly)
    assert done.result is not None
    assert done.result.exception is not None
    text = done.result.exception.traceback
    assert text.startswith("Traceback")
    assert text.endswith("xx\n")
    assert TRACEBACK_LIMIT < len(text) < TRACEBACK_LIMIT + 100
    assert "characters left out" in text
    assert len(done.report["exitMsg"]) <= 400


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "text"),
    [
        ("returns_object", {}, "UnsupportedValue", "$.points[3]: a value of type object"),
        ("returns_dataclass", {}, "UnsupportedValue", "$[0]: a dataclass instance of class function.Point"),
        ("returns_self", {}, "UnsupportedValue", "contains itself"),
        (
            "returns_large",
            {"size": envelope.INLINE_LIMIT},
            "ResultTooLarge",
            "takes 262146 bytes, and 262144 is the limit",
        ),
    ],
)
def test_values_that_cannot_come_back_are_refused(
    bad: ModuleType, name: str, arguments: dict[str, Any], kind: str, text: str
) -> None:
    done = run(getattr(bad, name), kwargs=arguments)
    assert done.exit_code == runner.EXIT_REFUSED
    assert done.result is not None
    assert done.result.status == envelope.REFUSED
    assert done.result.exception is not None
    assert done.result.exception.type == kind
    assert text in done.result.exception.message


def test_a_value_at_the_limit_comes_inline(bad: ModuleType) -> None:
    done = run(bad.returns_large, args=(envelope.INLINE_LIMIT - 2,))
    assert done.exit_code == 0
    assert done.value == "x" * (envelope.INLINE_LIMIT - 2)


def test_a_large_value_goes_by_reference(bad: ModuleType, tmp_path: Path) -> None:
    store = f"file://{tmp_path}/store"
    done = run(bad.returns_large, args=(300_000,), extra=("--result-store", store))
    assert done.exit_code == 0
    assert done.result is not None
    assert done.result.encoding == "reference"
    assert decode_value(fetch_reference(done.result, result_store=store)) == "x" * 300_000
    with pytest.raises(ValueDecodeError, match="fetched first"):
        decode_value(done.result)
    with pytest.raises(ValueDecodeError, match="outside"):
        fetch_reference(done.result, result_store="https://elsewhere/")
    (stored,) = (tmp_path / "store").rglob("*.json")
    stored.write_text('"y' + "x" * 299_999 + '"')
    with pytest.raises(ValueDecodeError, match="not what the job stored"):
        fetch_reference(done.result, result_store=store)
    stored.unlink()
    with pytest.raises(ValueDecodeError, match="cannot be fetched"):
        fetch_reference(done.result, result_store=store)
    with pytest.raises(ValueDecodeError, match="no result store"):
        fetch_reference(done.result, result_store=None)


def test_a_store_that_takes_nothing_is_no_success(bad: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run(bad.returns_large, args=(300_000,), extra=("--result-store", f"file://{tmp_path}/file"))
    assert done.exit_code == runner.EXIT_UNDELIVERED
    assert done.result is not None
    assert done.result.status == envelope.UNFIT


def test_a_missing_module_is_the_nodes_fault(bad: ModuleType) -> None:
    done = run(bad.imports_dynamically)
    assert done.exit_code == runner.EXIT_UNFIT
    assert done.result is not None
    assert done.result.status == envelope.UNFIT
    assert done.result.exception is not None
    message = done.result.exception.message
    assert message.startswith(f"module 'surely_not_installed_anywhere' is not installed on {os.uname().nodename}")
    assert "\n" not in message
    assert "Python 3." in message


@pytest.mark.parametrize("name", ["imports_side", "imports_side_inside"])
def test_included_modules_are_found(bad: ModuleType, name: str) -> None:
    assert run(getattr(bad, name), args=(4,), include=["side_module"]).value == 8
    assert run(bad.imports_package, args=(4,), include=["side_package"]).value == 12


def test_cloudpickle_values_only_when_asked_for(bad: ModuleType) -> None:
    done = run(bad.returns_dataclass, value_format="cloudpickle")
    assert [type(one).__name__ for one in done.value] == ["Point"]
    assert done.value[0].x == 1
    assert done.result is not None
    with pytest.raises(ValueDecodeError, match="only if value_format"):
        decode_value(done.result)


def test_user_output_and_environment_are_left_alone() -> None:
    def function() -> tuple[list[str], bool]:
        import sys

        print("mine")
        return [path.rpartition("/")[2] for path in sys.path[:1]], "json" in sys.modules

    done = run(function)
    assert done.stdout == "mine\n"
    assert done.value == (["modules"], False)


def unpacked(tmp_path: Path, function: Any, **options: Any) -> Path:
    content = build_archive(function, **options).content
    import io

    bootstrap.unpack(io.BytesIO(content), str(tmp_path))
    return tmp_path


def start(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "panda_runner/runner.py", "--job", "j0", "--task-key", "k", "--attempt", "2", *words]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


def one() -> int:
    return 1


def test_without_a_key_nothing_runs(tmp_path: Path) -> None:
    done = start(unpacked(tmp_path, one), "--secret", "NAME")
    assert done.returncode == runner.EXIT_REFUSED
    report = json.loads((tmp_path / "jobReport.json").read_text())
    assert report["exitCode"] == runner.EXIT_REFUSED
    assert "no signing key in user secret NAME" in report["exitMsg"]
    assert envelope.BODY_KEY not in report


def test_the_user_secret_is_read_where_the_pilot_leaves_it(tmp_path: Path) -> None:
    folder = unpacked(tmp_path, one)
    secret = json.dumps({"version": 1, "instance_secret": "s3cret", "broker": None})
    (folder / "panda_secrets.json").write_text(json.dumps({"OTHER": "x", "NAME": secret}))
    done = start(folder, "--secret", "NAME", PANDAID="42", PILOT_SITENAME="SITE")
    assert done.returncode == 0, done.stderr
    text = (folder / "jobReport.json").read_text()
    result = read_body(text, key=envelope.derive_key("s3cret", "k"), task_key="k")
    assert (result.panda_id, result.site, result.attempt, decode_value(result)) == (42, "SITE", 2, 1)
    assert "s3cret" not in text + done.stdout + done.stderr


def test_the_archive_can_carry_the_key(tmp_path: Path) -> None:
    key = envelope.derive_key("s", "k")
    folder = unpacked(tmp_path, one, delivery=Delivery(signing_key=key))
    assert start(folder).returncode == 0
    assert decode_value(read_body((folder / "jobReport.json").read_text(), key=key, task_key="k")) == 1


def test_a_broker_that_is_away_does_not_lose_the_value(tmp_path: Path) -> None:
    broker = {"addresses": [["no-such-host.invalid", 1]], "destination": "/topic/x", "login": "u", "passcode": "hidden"}
    folder = unpacked(tmp_path, one, delivery=Delivery(signing_key=b"k", broker=broker))
    (folder / "panda_runner" / "publish.py").write_text(
        (folder / "panda_runner" / "publish.py").read_text().replace("TOTAL_SECONDS = 30.0", "TOTAL_SECONDS = 0.5")
    )
    done = start(folder)
    assert done.returncode == 0
    assert "not published" in done.stderr
    assert "hidden" not in done.stderr
    assert (folder / "jobReport.json").exists()


def test_nothing_written_and_nothing_published_is_no_success(tmp_path: Path) -> None:
    folder = unpacked(tmp_path, one, delivery=Delivery(signing_key=b"k"))
    (folder / "jobReport.json").mkdir()
    done = start(folder)
    assert done.returncode == runner.EXIT_UNDELIVERED


def test_another_minor_version_is_refused_before_unpickling(tmp_path: Path) -> None:
    folder = unpacked(tmp_path, one, serializer="cloudpickle", delivery=Delivery(signing_key=b"k"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["python"] = "3.8"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "function.pkl").write_bytes(b"would crash")
    done = start(folder)
    assert done.returncode == runner.EXIT_UNFIT
    assert "WrongPython: the function was shipped as cloudpickle bytes of Python 3.8" in done.stderr


def test_syntax_of_a_newer_python(tmp_path: Path) -> None:
    folder = unpacked(tmp_path, one, delivery=Delivery(signing_key=b"k"))
    (folder / "function.py").write_text("def one():\n    return 1 ??? 2\n")
    done = start(folder)
    assert done.returncode == runner.EXIT_UNFIT
    assert "PythonTooOld: Python 3." in done.stderr
    assert "line 2: return 1 ??? 2" in done.stderr


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = build_archive(one)
    path = tmp_path / archive.name
    path.write_bytes(archive.content)
    assert command_line.main(["run", str(path), "--job", "j0", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert json.loads(report[envelope.BODY_KEY]["signed"])["payload"] == 1
    assert command_line.main(["run", str(path)]) == 0
    assert "value: 1" in capsys.readouterr().out
    assert command_line.main(["run", str(path), "--job", "5"]) == runner.EXIT_REFUSED
    assert "NoSuchJob" in capsys.readouterr().out
    assert command_line.main(["run", str(tmp_path / "none")]) == 2
