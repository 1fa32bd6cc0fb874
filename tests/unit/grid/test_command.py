"""A shell command as task parameters: as tables, and run by a real shell the way PanDA would have it run."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_panda.exceptions import ConfigurationError
from airflow_provider_panda.grid.command import (
    EXIT_OUTPUT,
    EXIT_SANDBOX,
    CommandSpec,
    command_parameters,
    output_datasets,
)
from airflow_provider_panda.grid.parameters import GridDefaults
from airflow_provider_panda.grid.sandbox import Sandbox, build_sandbox
from airflow_provider_panda.grid.task import Resources
from airflow_provider_panda.local.refine import job_text, refine

KEY = "afabcd00000000000000"
NAME = f"airflow-dag-task-run-{KEY}"


def made(command: str = "echo hello", **fields: Any) -> dict[str, Any]:
    source = fields.pop("source", "https://cache:25443")
    spec = CommandSpec(key=KEY, name=NAME, command=command, processing_type="airflow-abcd", **fields)
    return command_parameters(spec, vo="wlcg:production", source_url=source, defaults=GridDefaults())


def test_a_plain_command_is_one_job_without_inputs() -> None:
    parameters = made(container="docker://image", resources=Resources(queue="Q", memory_mb=2000, max_attempt=2))
    wanted = {
        "taskName": NAME, "uniqueTaskName": True, "vo": "wlcg", "processingType": "airflow-abcd", "site": "Q",
        "prodSourceLabel": "user", "architecture": "", "transUses": "", "transHome": "", "encJobParams": True,
        "noInput": True, "nFiles": 1, "nFilesPerJob": 1, "pfnList": ["j0"], "useSecrets": False, "ramCount": 2000,
        "maxAttempt": 2, "container_name": "docker://image", "cliParams": "echo hello",
    }  # fmt: skip
    assert {name: parameters[name] for name in wanted} == wanted
    assert output_datasets(parameters) == []


def test_inputs_leave_the_number_of_jobs_to_panda() -> None:
    parameters = made(inputs=("user.a:user.a.one/", "user.a.two/"), files_per_job=5, n_files=20)
    assert (parameters["nFilesPerJob"], parameters["nFiles"]) == (5, 20)
    assert parameters["dsForIN"] == "user.a:user.a.one/,user.a.two/"
    assert "noInput" not in parameters
    assert "pfnList" not in parameters
    (item,) = (item for item in parameters["jobParameters"] if item.get("param_type") == "input")
    assert item["dataset"] == "user.a:user.a.one/,user.a.two/"
    assert (item["value"], item["expand"], item["padding"]) == ("${IN}", True, False)
    assert "nFilesPerJob" not in made(inputs=("user.a.two/",))


def test_local_outputs_are_named_after_the_task() -> None:
    (item,) = (i for i in made(outputs=("hist.root",))["jobParameters"] if i.get("param_type") == "output")
    assert item == {
        "type": "template",
        "param_type": "output",
        "padding": False,
        "dataset": f"{NAME}.hist.root",
        "token": "local",
        "destination": "local",
        "value": f"{NAME}.$JEDITASKID._${{SN/P}}.hist.root",
    }


def test_registered_outputs_are_named_as_prun_does() -> None:
    parameters = made(outputs=("hist.root", "*.txt"), output_dataset="user.me.study.v1/", destination="CERN_SCRATCH")
    items = [item for item in parameters["jobParameters"] if item.get("param_type") == "output"]
    assert [item["dataset"] for item in items] == ["user.me.study.v1_hist.root/", "user.me.study.v1_XYZ.txt.tgz/"]
    assert [item["value"] for item in items] == [
        "user.me.$JEDITASKID._${SN/P}.hist.root",
        "user.me.$JEDITASKID._${SN/P}.XYZ.txt.tgz",
    ]
    assert {item["destination"] for item in items} == {"CERN_SCRATCH"}
    assert all("token" not in item for item in items)
    assert parameters["log"]["dataset"] == "user.me.study.v1.log/"
    assert output_datasets(parameters) == [item["dataset"] for item in items]


def test_jedi_may_take_the_last_character_off() -> None:
    """JEDI joins items with blanks and cuts one character off the whole: the last item has to be a padded one."""
    for parameters in (made(), made(outputs=("a",)), made(inputs=("user.a.b/",))):
        assert "padding" not in parameters["jobParameters"][-1]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"command": "  "}, "no shell command"),
        ({"outputs": ("a/b.root",)}, "'a/b.root' is no name"),
        ({"outputs": ("a=b",)}, "'a=b' is no name"),
        ({"outputs": ("$(id)",)}, "is no name"),
        ({"outputs": ("-rf",)}, "is no name"),
        ({"outputs": ("a", "a")}, "twice"),
        ({"inputs": ("no name",)}, "argument inputs: 'no name' is no dataset"),
        ({"output_dataset": "a b"}, "argument output_dataset"),
    ],
)
def test_names_of_no_use_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        made(**fields)
    assert told in str(refused.value)


# --- what a job does ----------------------------------------------------------------------------------------


def run(
    folder: Path, parameters: dict[str, Any], *, job: int = 0, attempt: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run one job as the embedded grid does: refined, decoded by the transform, in a directory of its own."""
    refined = refine(parameters, task_id=77, vos=("wlcg",))
    text = job_text(refined, inputs=[f"00000{job}:j{job}"], serial=job + 1, attempt=attempt)
    line = base64.b64decode(text.parameters).decode()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    return subprocess.run(
        ["/bin/bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_job_runs_the_command_as_written(tmp_path: Path) -> None:
    command = "set -eu\nfor x in a 'b c'; do echo \"$x\"; done | sort -r  # not {all}\ncat <<'END'\n$HOME ${x}\nEND"
    done = run(tmp_path, made(command))
    assert (done.returncode, done.stdout) == (0, "b c\na\n$HOME ${x}\n"), done.stderr


@pytest.mark.parametrize("command", ["exit 3", "false; (exit 3)", "set -e; sh -c 'exit 3'; echo on"])
def test_the_exit_code_is_the_commands(tmp_path: Path, command: str) -> None:
    assert run(tmp_path, made(command, outputs=("x",))).returncode == 3


def test_a_job_knows_its_number_and_attempt(tmp_path: Path) -> None:
    done = run(tmp_path, made("echo $PANDA_JOB of attempt $PANDA_ATTEMPT, %IN", n_jobs=12), job=11, attempt=2)
    assert done.stdout == "11 of attempt 2, j11\n"


def test_outputs_get_their_names_on_the_grid(tmp_path: Path) -> None:
    parameters = made("echo r > r.root; echo 1 > a.txt; echo 2 > b.txt", outputs=("r.root", "*.txt"))
    assert run(tmp_path, parameters).returncode == 0
    assert (tmp_path / f"{NAME}.77._000001.r.root").read_text() == "r\n"
    listing = subprocess.run(
        ["tar", "-tzf", tmp_path / f"{NAME}.77._000001.XYZ.txt.tgz"], capture_output=True, text=True, check=True
    )
    assert listing.stdout.split() == ["a.txt", "b.txt"]


def test_a_command_may_use_an_outputs_name_itself(tmp_path: Path) -> None:
    assert run(tmp_path, made('echo r > "$OUTPUT0"', outputs=("r.root",))).returncode == 0
    assert (tmp_path / f"{NAME}.77._000001.r.root").exists()


@pytest.mark.parametrize("name", ["r.root", "*.txt"])
def test_a_missing_output_fails_the_job_by_name(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, made("true", outputs=(name,)))
    assert done.returncode == EXIT_OUTPUT
    assert done.stderr.splitlines()[-1].endswith(f"did not make its output {name}")


def cached(folder: Path, sandbox: Sandbox, content: bytes) -> str:
    (folder / "cache").mkdir(parents=True)
    (folder / "cache" / sandbox.name).write_bytes(content)
    return folder.as_uri()


def test_files_are_there_with_their_modes(tmp_path: Path) -> None:
    sources, work = tmp_path / "sources", tmp_path / "work"
    (sources / "tables").mkdir(parents=True)
    work.mkdir()
    (sources / "run.sh").write_text("#!/bin/sh\ncat tables/t.csv\n")
    (sources / "run.sh").chmod(0o755)
    (sources / "tables" / "t.csv").write_text("1,2\n")
    sandbox = build_sandbox(["run.sh", "tables"], base=sources)
    source = cached(tmp_path / "www", sandbox, sandbox.content)
    done = run(work, made("./run.sh", sandbox=sandbox, source=source))
    assert (done.returncode, done.stdout) == (0, "1,2\n"), done.stderr


def test_files_of_another_content_are_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    sandbox = build_sandbox([tmp_path / "a.txt"])
    (tmp_path / "a.txt").write_text("b")
    source = cached(tmp_path / "www", sandbox, build_sandbox([tmp_path / "a.txt"]).content)
    (tmp_path / "work").mkdir()
    done = run(tmp_path / "work", made("touch ran", sandbox=sandbox, source=source))
    assert done.returncode == EXIT_SANDBOX
    assert "could not be fetched" in done.stderr
    assert not (tmp_path / "work" / "ran").exists()


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("a")
        (tmp_path / folder / "b.txt").write_text("b")
    os.utime(tmp_path / "two" / "a.txt", (0, 0))
    first = build_sandbox(["a.txt", "b.txt"], base=tmp_path / "one")
    second = build_sandbox([tmp_path / "two" / "b.txt", str(tmp_path / "two" / "a.txt")])
    assert first == second
    assert first.members == ("a.txt", "b.txt")


def test_files_that_are_not_there_or_clash_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing\.txt is not there"):
        build_sandbox(["nothing.txt"], base=tmp_path)
    (tmp_path / "d").mkdir()
    for path in (tmp_path / "a.txt", tmp_path / "d" / "a.txt"):
        path.write_text("a")
    with pytest.raises(ConfigurationError, match=r"would both be a\.txt"):
        build_sandbox(["a.txt", "d/a.txt"], base=tmp_path)
