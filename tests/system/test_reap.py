"""``airflow panda reap`` and its operator in real Airflow, on grid tasks that somebody waits for or nobody does."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.names import processing_type, task_name
from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.grid.task import Phase, TaskSpec, task_key
from tests.system.conftest import Stack
from tests.system.test_functions import ran, wait_for_state

pytestmark = pytest.mark.timeout(600)


@dataclass
class Scene:
    """Grid tasks of all kinds, by what they are.

    :param run_id: run of the task that is waited for.
    """

    stack: Stack
    panda: PandaGrid
    instance: str
    run_id: str
    tasks: dict[str, int]

    def submit(self, what: str, name: str, key: str, *, kind: str | None = None) -> None:
        spec = TaskSpec(
            key=key, name=name, n_jobs=1, command="sleep 900", archive_name="sources.none.tar.gz",
            processing_type=kind or processing_type(self.instance),
        )  # fmt: skip
        self.tasks[what] = self.panda.submit(spec)

    def killed(self) -> set[str]:
        """Return what PanDA has taken a kill of."""
        return {
            what
            for what, task_id in self.tasks.items()
            if (status := self.panda.status(task_id)).phase is Phase.KILLED or status.status in ("toabort", "aborting")
        }

    def shown(self) -> None:
        """Wait until PanDA shows all of them: it registers a task some time after its submission."""
        end = time.monotonic() + 60
        kinds = {processing_type(self.instance), "airflow-zzzz", "mine"}
        while not set(self.tasks.values()) <= {t.task_id for kind in kinds for t in self.panda.statuses(kind)}:
            assert time.monotonic() < end
            time.sleep(0.5)

    def reap(self, *options: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(
            self.stack.airflow.run("panda", "reap", "panda_default", "-o", "json", *options)
        )
        return told

    def standing(self, told: dict[str, Any]) -> dict[str, str]:
        """Return the standing of each of these tasks that a report tells."""
        by_id = {task["task_id"]: task["standing"] for task in told["tasks"]}
        return {what: by_id[task_id] for what, task_id in self.tasks.items() if task_id in by_id}


def instance_id_of(stack: Stack, dag_id: str, run_id: str) -> str:
    (only,) = stack.airflow.task_instances(dag_id, run_id)
    return str(only["id"])


@pytest.fixture
def scene(stack: Stack) -> Scene:
    airflow = stack.airflow
    airflow.wait_for_dags(["system_reap_waits", "system_reap_ended", "system_reap"])
    panda = PandaGrid(PandaEndpoint(url=stack.grid.url, auth=AuthKind.TOKEN, token=stack.grid.token(), vo="wlcg"))
    (name,) = (name for name in panda.secrets() if name.startswith("AIRFLOW_PANDA_"))
    instance = name.removeprefix("AIRFLOW_PANDA_").lower()
    ended, state = ran(stack, "system_reap_ended")
    assert state == "success"
    run_id = airflow.trigger("system_reap_waits")
    wait_for_state(stack, "system_reap_waits", run_id, "sleep_long", "deferred")
    waits = int(airflow.xcom("system_reap_waits", run_id, "sleep_long", key="panda_task_id"))
    made = Scene(stack=stack, panda=panda, instance=instance, run_id=run_id, tasks={"waited for": waits})

    own = task_key(instance, instance_id_of(stack, "system_reap_ended", ended))
    made.submit("ended", task_name("system_reap_ended", "ends", ended, own), own)
    waiting = task_key(instance, instance_id_of(stack, "system_reap_waits", run_id))
    made.submit("doubled", f"doubled-{waiting}", waiting)
    nobody = task_key(instance, str(uuid.uuid4()))
    made.submit("unknown", task_name("d", "t", "r", nobody), nobody)
    foreign = task_key("zzzz", str(uuid.uuid4()))
    made.submit("another instance's", task_name("d", "t", "r", foreign), foreign, kind="airflow-zzzz")
    stray = task_key("zzzz", str(uuid.uuid4()))
    made.submit("a foreign key", task_name("d", "t", "r", stray), stray)
    made.submit("no key", f"user.me.{uuid.uuid4().hex}", "none")
    made.submit("the user's own", f"user.me.{uuid.uuid4().hex}", "none", kind="mine")
    made.shown()
    return made


def clean(scene: Scene) -> None:
    for task_id in scene.tasks.values():
        scene.panda.kill(task_id)
    scene.stack.airflow.client.patch(f"/dags/system_reap_waits/dagRuns/{scene.run_id}", json={"state": "failed"})


EXPECTED = {"waited for": "waited for", "ended": "orphan", "doubled": "orphan", "unknown": "unknown"}


def test_the_command_kills_orphans_and_nothing_else(scene: Scene) -> None:
    try:
        told = scene.reap("--dry-run", "--grace", "0")
        assert scene.standing(told) == EXPECTED
        assert scene.killed() == set()

        told = scene.reap()
        assert set(scene.standing(told).values()) <= {"waited for", "spared"}, "all are younger than the grace"
        assert scene.killed() == set()

        told = scene.reap("--grace", "0")
        assert scene.standing(told) == EXPECTED
        assert told["ok"] is True
        assert scene.killed() == {"ended", "doubled"}

        lines = scene.stack.airflow.run("panda", "reap", "panda_default", "--grace", "0", "--unknown").splitlines()
        assert any(line.startswith(f"killed      {scene.tasks['unknown']} ") for line in lines), lines
        assert scene.killed() == {"ended", "doubled", "unknown"}
        assert scene.stack.grid.token() not in "\n".join(lines)
        assert scene.stack.airflow.states("system_reap_waits", scene.run_id) == {"sleep_long": "deferred"}
    finally:
        clean(scene)


def test_the_operator_does_so_from_a_worker(scene: Scene) -> None:
    airflow = scene.stack.airflow
    try:
        address = urlsplit(airflow.url)
        airflow.add_connection("airflow_api", "http", host=f"http://{address.hostname}", port=address.port)
        run_id, state = ran(scene.stack, "system_reap")
        assert state == "success", airflow.task_log("system_reap", run_id, "reap")
        assert scene.standing(airflow.xcom("system_reap", run_id, "reap")) == EXPECTED
        assert scene.killed() == {"ended", "doubled"}
        assert airflow.states("system_reap_waits", scene.run_id) == {"sleep_long": "deferred"}
    finally:
        clean(scene)


def test_a_panda_that_does_not_answer_is_told_by_the_exit_code(stack: Stack) -> None:
    stack.airflow.add_connection(
        "panda_away", "panda", host="http://127.0.0.1:9", password="t",
        extra={"auth": "token", "vo": "wlcg", "instance_secret": "s" * 40},
    )  # fmt: skip
    with pytest.raises(RuntimeError, match=r"ended with 1:(?s:.)*wrong "):
        stack.airflow.run("panda", "reap", "panda_away")
