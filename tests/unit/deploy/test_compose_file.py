"""What docker-compose.yml promises, read from the file; its commands are run by tests/integration/deploy."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.deploy.composition import (
    FILE,
    ROOT,
    MissingVariableError,
    dotenv,
    load,
    put_in,
    services,
    variables,
)

EXAMPLE = ROOT / ".env.example"
SECRETS = sorted(name for name, value in dotenv(EXAMPLE).items() if not value)
FILLED = {name: f"value-of-{name}" for name in SECRETS}
RAW: dict[str, Any] = load()["services"]
OURS = [name for name in RAW if name != "postgres"]
LASTING = [name for name, raw in RAW.items() if raw["restart"] != "no"]


def test_it_follows_the_specification() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    program = str(checker) if checker.exists() else shutil.which("check-jsonschema")
    if program is None:
        pytest.skip("check-jsonschema is not installed")
    done = subprocess.run(
        [program, "--builtin-schema", "vendor.compose-spec", str(FILE)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_parts_are_there() -> None:
    assert set(RAW) == {
        "postgres", "activemq", "grid", "token", "idds-schema", "idds-rest", "idds-agents", "airflow-init",
        "airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer",
    }  # fmt: skip


def test_every_variable_is_in_the_example_and_secrets_have_no_default() -> None:
    used = variables(RAW)
    assert set(used) == set(dotenv(EXAMPLE))
    assert {name for name, kinds in used.items() if kinds == {":?"}} == set(SECRETS)
    assert {name for name, kinds in used.items() if kinds == {":-"}} == set(used) - set(SECRETS)


@pytest.mark.parametrize("name", SECRETS)
def test_without_a_secret_it_says_what_to_do(name: str) -> None:
    with pytest.raises(MissingVariableError, match=rf"{name}: run tools/compose-env"):
        services({**FILLED, name: ""})


def test_no_secret_is_in_a_command() -> None:
    for name, raw in RAW.items():
        said = variables([raw["command"], raw.get("healthcheck", {}).get("test", [])])
        assert not set(said) & set(SECRETS), name


def test_ports_are_published_on_loopback_only() -> None:
    ports = [port for raw in RAW.values() for port in raw.get("ports", ())]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port) for port in ports), ports


@pytest.mark.parametrize("name", RAW)
def test_nothing_runs_as_root_or_can_become_it(name: str) -> None:
    raw = RAW[name]
    assert raw["user"] == ("postgres" if name == "postgres" else "50000:50000")
    assert raw["cap_drop"] == ["ALL"]
    assert raw["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_restarted_and_watched(name: str) -> None:
    assert RAW[name]["restart"] == "unless-stopped"
    check = RAW[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)


def test_each_waits_for_what_is_healthy_or_has_ended() -> None:
    for name, service in services(FILLED).items():
        for other, until_its_end in service.after.items():
            assert until_its_end is (RAW[other]["restart"] == "no"), f"{name} after {other}"


def test_the_start_order_has_no_circle() -> None:
    waiting = {name: set(service.after) for name, service in services(FILLED).items()}
    while waiting:
        free = {name for name, others in waiting.items() if not others & set(waiting)}
        assert free, f"these wait for each other: {sorted(waiting)}"
        waiting = {name: others for name, others in waiting.items() if name not in free}


def test_images_are_pinned_and_built_once() -> None:
    built: dict[str, int] = {}
    for name, raw in RAW.items():
        assert re.search(r":[\w.-]+$", raw["image"]), name
        assert not raw["image"].endswith(":latest"), name
        if name in OURS:
            built[raw["image"]] = built.get(raw["image"], 0) + ("build" in raw)
            assert raw["pull_policy"] == ("build" if "build" in raw else "never"), name
    assert set(built.values()) == {1}


def test_a_service_that_uses_an_image_waits_for_the_one_that_builds_it() -> None:
    order = services(FILLED)

    def before(name: str) -> set[str]:
        return set(order[name].after).union(*(before(other) for other in order[name].after))

    builder = {raw["image"]: name for name, raw in RAW.items() if "build" in raw}
    for name in OURS:
        made_by = builder[RAW[name]["image"]]
        assert name == made_by or made_by in before(name), name


def test_named_volumes_and_networks_are_declared() -> None:
    whole = load()
    mounts = [mount for service in services(FILLED).values() for mount in service.mounts]
    assert {m.source for m in mounts if not m.source.startswith("./")} == set(whole["volumes"])
    for mount in mounts:
        if mount.source.startswith("./"):
            assert (ROOT / mount.source).is_dir()
            assert mount.read_only, mount
    assert {net for raw in RAW.values() for net in raw.get("networks", ())} == set(whole["networks"])


def test_jobs_of_the_grid_do_not_reach_the_database() -> None:
    assert RAW["postgres"]["networks"] == ["data"]
    assert RAW["grid"]["networks"] == ["services"]
    assert load()["networks"]["data"] == {"internal": True}


def test_the_dockerfile_has_the_targets_and_what_it_copies_is_there() -> None:
    text = (ROOT / "deploy/compose/Dockerfile").read_text()
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    for raw in RAW.values():
        if "build" in raw:
            assert raw["build"]["dockerfile"] == "deploy/compose/Dockerfile"
            assert raw["build"]["target"] in targets
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for words in (line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")):
        for source in words:
            if not words[0].startswith("--from="):
                assert (ROOT / source).exists(), source
                assert source.split("/")[0] in allowed, f"{source} is not sent to Docker"
    assert all(re.search(r":[\d.]+", default) for default in re.findall(r"^ARG \w+=(\S+)$", text, re.MULTILINE))


def test_mount_points_of_new_volumes_belong_to_the_user_in_every_image_that_mounts_them() -> None:
    text = (ROOT / "deploy/compose/Dockerfile").read_text().replace("\\\n", " ")
    stages = {part.split()[0]: part for part in re.split(r"^FROM \S+ AS ", text, flags=re.MULTILINE)[1:]}
    targets = {raw["image"]: raw["build"]["target"] for raw in RAW.values() if "build" in raw}
    for name in OURS:
        made = re.search(r"install -d -o panda -g panda -m 0700([^&\n]*)", stages[targets[RAW[name]["image"]]])
        assert made is not None
        for mount in services(FILLED)[name].mounts:
            assert mount.source.startswith("./") or mount.target in made[1].split(), f"{name}: {mount.target}"


def test_programs_that_are_started_can_be_executed() -> None:
    for name in ("activemq/start", "activemq/healthy", "grid", "postgres/databases.sh"):
        assert (ROOT / "deploy/compose" / name).stat().st_mode & 0o111, name


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("${A:-x}", "1"), ("${B:-x}", "x"), ("${E:-x}", "x"), ("${A:?no}", "1"), ("$$HOME ${A}", "$HOME 1"),
        ("plain", "plain"),
    ],
)  # fmt: skip
def test_variables_are_put_in_as_compose_does(text: str, made: str) -> None:
    assert put_in(text, {"A": "1", "E": ""}) == made


def test_compose_env_fills_every_secret_with_another_value(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    command = [str(ROOT / "tools/compose-env"), str(file)]
    subprocess.run(command, check=True, capture_output=True)
    made = dotenv(file)
    assert list(made) == list(dotenv(EXAMPLE))
    assert len({made[name] for name in SECRETS}) == len(SECRETS)
    assert all(re.fullmatch(r"[\w-]{20,}=?", made[name]) for name in SECRETS)
    assert file.stat().st_mode & 0o777 == 0o600
    from cryptography.fernet import Fernet

    Fernet(made["AIRFLOW_FERNET_KEY"])
    before = file.read_text()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1
    assert "exists" in again.stderr
    assert file.read_text() == before
