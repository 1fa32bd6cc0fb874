"""The DAG files of ``dags/`` through a real iDDS, asked itself and through the PanDA server's relay."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import stomp

from airflow_provider_panda.payload.envelope import BODY_KEY
from airflow_provider_panda.triggers.ids import REQUEST_ID_KEY, TASK_ID_KEY, TASK_KEY_KEY
from demo.airflow import Airflow
from tests.stack.stack import Stack

ROOT = Path(__file__).parents[2]
FINISHED = "3"
"""Number of the state in iDDS's tables, of requests and of transforms."""


@dataclass
class Listener(stomp.ConnectionListener):  # type: ignore[misc]
    """Hears all that passes iDDS's destination of results."""

    heard: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)

    def on_message(self, frame: Any) -> None:
        self.heard.append((dict(frame.headers), json.loads(frame.body)))


@pytest.fixture(scope="module")
def airflow(idds_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    folder = tmp_path_factory.mktemp("idds-airflow")
    dags = folder / "dags"
    shutil.copytree(ROOT / "dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
    airflow = Airflow(
        folder / "airflow",
        dags,
        settings={"AIRFLOW__PANDA__POLL_INTERVAL": "5", "TTH_PYTHON": sys.executable},
    )
    access = idds_stack.access
    try:
        airflow.start()
        airflow.add_connection(
            "broker",
            "stomp",
            host=access.broker_host,
            port=access.broker_port,
            login=access.subscriber.name,
            password=access.subscriber.passcode,
            extra={
                "publisher_login": access.publisher.name,
                "publisher_password": access.publisher.passcode,
                "result_destination": access.result_destination,
            },
        )
        airflow.add_connection("panda_default", "panda", **fields(idds_stack, relayed=False))
        airflow.run("panda", "setup", "panda_default")
        airflow.run("panda", "check", "panda_default")
        airflow.wait_for_dags(["hello_grid", "tth_hpo"])
        yield airflow
    finally:
        airflow.stop()


def fields(stack: Stack, *, relayed: bool) -> dict[str, Any]:
    """Return the PanDA connection to a stack."""
    access = stack.access
    extra = {
        "auth": "token",
        "vo": access.vo,
        "service": "idds",
        "queue": access.queue,
        "broker_conn_id": "broker",
        "monitor_url": access.panda_url,
        **({} if relayed else {"idds_host": access.idds_url}),
    }
    host, _, port = access.panda_url.rpartition(":")
    return {"host": host, "port": int(port), "password": access.token, "extra": extra}


def lead_by_relay(airflow: Airflow) -> None:
    """Have the connection name no iDDS, so that the PanDA server relays to its own; the triggerer forgets the old."""
    extra = json.loads(airflow.get("/connections/panda_default")["extra"])
    assert extra.pop("idds_host")
    body = {"connection_id": "panda_default", "conn_type": "panda", "extra": json.dumps(extra)}
    airflow.client.patch("/connections/panda_default", params={"update_mask": "extra"}, json=body).raise_for_status()
    airflow.processes["triggerer"].stop()
    airflow.start_component("triggerer")


@contextlib.contextmanager
def listening(stack: Stack) -> Iterator[Listener]:
    """Hear what is published where iDDS and we look for results."""
    access, listener = stack.access, Listener()
    conn = stomp.Connection12([(access.broker_host, access.broker_port)])
    conn.set_listener("", listener)
    conn.connect(access.services_login.name, access.services_login.passcode, wait=True)
    conn.subscribe(access.result_destination, id="1")
    try:
        yield listener
    finally:
        conn.disconnect()


@pytest.mark.parametrize("way", ["direct", "relayed"])
def test_the_dags_run_through_idds(airflow: Airflow, idds_stack: Stack, way: str) -> None:
    if way == "relayed":
        lead_by_relay(airflow)
    wanted: dict[str, dict[str, Any]] = {
        "hello_grid": {},
        "tth_hpo": {"rounds": 2, "points": 3, "events": 800, "output": str(airflow.home / "plots")},
    }
    with listening(idds_stack) as listener:
        runs = {dag_id: airflow.trigger(dag_id, conf) for dag_id, conf in wanted.items()}
        for dag_id, run_id in runs.items():
            assert airflow.wait_for_run(dag_id, run_id, timeout=280) == "success", airflow.states(dag_id, run_id)
    tasks = 0
    for dag_id, run_id in runs.items():
        tasks += check_request(airflow, idds_stack, dag_id, run_id)
    assert tasks == 1 + 3  # hello; the default point and two rounds

    results = [body for headers, body in listener.heard if headers.get("channel") == "asyncresult"]
    assert len(results) == 1 + 1 + 2 * 3
    assert all(BODY_KEY in body for body in results), "something else was published as a result, such as a self-test"


def check_request(airflow: Airflow, stack: Stack, dag_id: str, run_id: str) -> int:
    """Check that the run used one request, closed by now, with one transform per grid task, and count these."""
    ids = {
        each["task_id"]: each["id"]
        for each in airflow.task_instances(dag_id, run_id)
        if each["state"] == "success" and REQUEST_ID_KEY in xcom_keys(airflow, dag_id, run_id, each["task_id"])
    }
    (used,) = {airflow.xcom(dag_id, run_id, task_id, REQUEST_ID_KEY) for task_id in ids}
    ((name,),) = stack.postgres.query(f"select name from doma_idds.requests where request_id = {used}")
    mark = name.rpartition("-g")[0]
    assert mark.startswith(f"airflow-{dag_id}-manual__")
    counts = "select count(*) from doma_idds.transforms t where t.request_id = r.request_id"
    listing = f"select request_id, status, ({counts}) from doma_idds.requests r where name like '{mark}%'"
    end = time.monotonic() + 180
    while {row[1] for row in stack.postgres.query(listing)} != {FINISHED}:
        assert time.monotonic() < end, f"not closed: {stack.postgres.query(listing)}"
        time.sleep(0.5)
    rows = stack.postgres.query(listing)
    assert {request: int(count) for request, _, count in rows if int(count)} == {str(used): len(ids)}
    transforms = stack.postgres.query(f"select name, status from doma_idds.transforms where request_id = {used}")
    assert {status for _, status in transforms} == {FINISHED}
    for task_id in ids:
        key = airflow.xcom(dag_id, run_id, task_id, TASK_KEY_KEY)
        part = task_id.replace(".", "_")
        assert [name for name, _ in transforms if name.startswith(f"airflow-{dag_id}-{part}-") and name.endswith(key)]
        assert isinstance(airflow.xcom(dag_id, run_id, task_id, TASK_ID_KEY), int)
    return len(ids)


def xcom_keys(airflow: Airflow, dag_id: str, run_id: str, task_id: str) -> set[str]:
    """Return the keys of a task instance's XComs."""
    path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries"
    return {entry["key"] for entry in airflow.get(path)["xcom_entries"]}
