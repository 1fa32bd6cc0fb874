"""The test stack itself: it comes up, runs requests of iDDS's own client, survives outages, and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import stomp

from demo.processes import environment
from tests.stack import stack as stack_module
from tests.stack.stack import Access, Stack

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
GUARD = 120.0
FINISHED = 3
MARK = "the runner of init_env ran"

FUNCTIONS = """\
def steer():
    pass


def add_one(number):
    return number + 1
"""
RUNNER = f"""\
import os, sys
print({MARK!r}, sys.argv[1:], os.path.exists("run_workflow.sh"), os.path.exists("funcs.py"))
"""


@pytest.fixture(scope="module")
def stack(idds_stack: Stack) -> Stack:
    return idds_stack


def by_token(access: Access) -> dict[str, str]:
    return {"X-IDDS-Auth-Type": "oidc", "X-IDDS-Auth-VO": access.vo, "X-IDDS-Auth-Token": access.token}


def transforms(access: Access, request_id: int) -> list[dict[str, Any]]:
    answer = httpx.get(f"{access.idds_url}/request/{request_id}/null/False/False/True/False", timeout=60)
    answer.raise_for_status()
    rows: list[dict[str, Any]] = answer.json()
    return rows


def state(row: dict[str, Any]) -> int:
    return int(row["transform_status"]["attributes"]["_value_"])


def until(holds: Callable[[], bool], *, what: str) -> None:
    end = time.monotonic() + GUARD
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {GUARD:.0f} s"
        time.sleep(0.2)


def own_client(stack: Stack, folder: Path, init_env: str, argument: int) -> dict[str, Any]:
    """Run iDDS's own client on a folder, and return what it tells."""
    folder.mkdir()
    (folder / "funcs.py").write_text(FUNCTIONS)
    (folder / "my_runner.py").write_text(RUNNER)
    proxy = folder.with_name(f"{folder.name}-proxy")
    proxy.write_text("not a certificate\n")
    panda = f"{stack.access.panda_url}/server/panda"
    settings = environment(
        IDDS_HOST=stack.access.idds_url, IDDS_CONFIG=os.devnull, IDDS_AUTH_TYPE="x509_proxy",
        X509_USER_PROXY=str(proxy),
        PANDA_URL=panda, PANDA_URL_SSL=panda, PANDACACHE_URL=panda, PANDA_AUTH="oidc", PANDA_AUTH_VO=stack.access.vo,
        PANDA_AUTH_ID_TOKEN=stack.access.token, PANDA_VERIFY_HOST="off", PANDA_BEHIND_REAL_LB="true",
        PANDA_CONFIG_ROOT=str(folder.with_name(f"{folder.name}-panda")), PYTHONPATH=str(folder),
    )  # fmt: skip
    done = subprocess.run(
        [str(stack.idds.python), str(HERE / "own_client.py"), init_env, "add_one", str(argument)],
        env=settings, cwd=folder, capture_output=True, text=True, timeout=GUARD,
    )  # fmt: skip
    told = [line for line in done.stdout.splitlines() if line.startswith("TOLD ")]
    assert told, done.stdout[-3000:] + done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(told[0].removeprefix("TOLD "))
    return answer


def test_callers_are_known_by_the_front_end_or_by_token(stack: Stack) -> None:
    url = f"{stack.access.idds_url}/ping"
    assert httpx.get(url).json() == {"Status": "OK"}
    assert httpx.get(url, headers=by_token(stack.access)).json() == {"Status": "OK"}
    forged = {**by_token(stack.access), "X-IDDS-Auth-Token": f"{stack.access.token[:-12]}AAAAAAAAAAAA"}
    assert httpx.get(url, headers=forged).status_code == 401
    assert httpx.get(url, headers={"X-IDDS-Auth-Type": "none"}).status_code == 401


def test_the_grid_relays_to_it(stack: Stack) -> None:
    answer = httpx.post(
        f"{stack.access.panda_url}/api/v1/idds/relay_idds_command",
        json={"command_name": "get_metainfo", "kwargs": json.dumps({"name": "asyncresult_config"}), "manager": True},
        headers={"Authorization": f"Bearer {stack.access.token}", "Origin": stack.access.vo},
        timeout=60,
    )
    assert stack.access.result_destination in answer.text


def test_a_work_runs_the_runner_that_its_init_env_names(stack: Stack, tmp_path: Path) -> None:
    told = own_client(stack, tmp_path / "run", "python3 my_runner.py", 1)
    request_id = told["request_id"]
    until(lambda: state(transforms(stack.access, request_id)[0]) >= FINISHED, what=f"request {request_id}")
    row = transforms(stack.access, request_id)[0]
    assert state(row) == FINISHED
    logs = stack.grid.folder / "data" / "logs" / str(row["transform_workload_id"])
    (output,) = logs.glob("*/payload.stdout")
    assert f"{MARK} ['./run_workflow.sh'] True True" in output.read_text()


def test_idds_own_runner_sends_a_value_home(stack: Stack, tmp_path: Path) -> None:
    assert own_client(stack, tmp_path / "run", "", 41)["value"] == 42


def publish_result(stack: Stack, *, request_id: int, transform_id: int, value: str) -> None:
    """Publish what iDDS's own runner would, with the publish-only login."""
    access = stack.access
    connection = stomp.Connection12([(access.broker_host, access.broker_port)])
    connection.connect(access.publisher.name, access.publisher.passcode, wait=True)
    headers = {
        "channel": "asyncresult", "type": "iwork", "internal_id": "12345678", "request_id": str(request_id),
        "transform_id": str(transform_id), "persistent": "true",
    }  # fmt: skip
    body = {
        "ret": [True, value, None, {}], "name": "funcs.py:funcs:add_one", "key": "None", "internal_id": "12345678",
        "type": "iwork", "request_id": request_id, "transform_id": transform_id,
    }  # fmt: skip
    connection.send(access.result_destination, json.dumps(body), headers=headers)
    connection.disconnect()


def stored(stack: Stack, request_id: int, transform_id: int) -> str:
    url = f"{stack.access.idds_url}/message/{request_id}/null/{transform_id}/null"
    return httpx.get(url, timeout=60).text


def stored_when_published(stack: Stack, request_id: int, transform_id: int, value: str) -> None:
    """Publish a result again and again, as iDDS subscribes when it has noticed, until iDDS has stored it."""

    def seen() -> bool:
        publish_result(stack, request_id=request_id, transform_id=transform_id, value=value)
        time.sleep(1)
        return value in stored(stack, request_id, transform_id)

    until(seen, what=f"{value} stored")


def test_results_are_stored_also_after_outages(stack: Stack, tmp_path: Path) -> None:
    told = own_client(stack, tmp_path / "run", "python3 my_runner.py", 1)
    ids = told["request_id"], told["transform_id"]
    publish_result(stack, request_id=ids[0], transform_id=ids[1], value="published once")
    until(lambda: "published once" in stored(stack, *ids), what="stored")

    stack.broker.restart(down=1)
    stored_when_published(stack, *ids, "after the broker's outage")

    stack.idds.stop_agents(kill=True)
    stack.idds.start_agents()
    stored_when_published(stack, *ids, "after the agents were killed")


def test_a_request_runs_after_outages_of_database_rest_and_grid(stack: Stack, tmp_path: Path) -> None:
    stack.postgres.restart()
    stack.idds.stop_rest()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{stack.access.idds_url}/ping")
    stack.idds.start_rest()
    stack.stop_grid()
    stack.start_grid()
    assert stack.grid.url == stack.access.panda_url
    assert stack.grid.token(), "the token of before is valid still"
    told = own_client(stack, tmp_path / "run", "python3 my_runner.py", 1)
    request_id = told["request_id"]
    until(lambda: bool(transforms(stack.access, request_id)), what="the transform is listed")
    until(lambda: state(transforms(stack.access, request_id)[0]) >= FINISHED, what=f"request {request_id}")
    assert state(transforms(stack.access, request_id)[0]) == FINISHED


@pytest.fixture
def kept_up() -> Iterator[subprocess.Popen[str]]:
    """``python -m tests.stack.stack`` without stored results, as ``make stack`` runs it."""
    reason = stack_module.missing()
    if reason:
        pytest.skip(reason)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.stack.stack", "--no-store"],
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    yield process
    if process.poll() is None:
        process.terminate()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_it_is_ended_or_killed(kept_up: subprocess.Popen[str], number: signal.Signals) -> None:
    assert kept_up.stdout is not None
    text = ""
    while not text.endswith("\n}\n"):
        line = kept_up.stdout.readline()
        assert line, "it ended before it was up"
        text += line
    told = json.loads(text)
    assert httpx.get(f"{told['idds_url']}/ping").status_code == 200
    configuration = (Path(told["folder"]) / "idds/etc/idds.cfg").read_text()
    assert '"asyncresult"' not in configuration
    family = psutil.Process(kept_up.pid).children(recursive=True)
    names = " ".join(" ".join(process.cmdline()) for process in family)
    for part in ("activemq", "postgres", "deploy.idds agents", "gunicorn", "airflow_provider_panda.local"):
        assert part in names
    assert told["token"] not in names
    os.kill(kept_up.pid, number)
    _, alive = psutil.wait_procs(family, timeout=GUARD)
    assert alive == []
    assert not Path(told["folder"]).exists()
