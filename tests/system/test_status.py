"""How a real triggerer tells how its waits fare: to a StatsD server, and to ``airflow panda status``."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable

import psutil
import pytest

from airflow_provider_panda.triggers.reports import folder_of
from tests.system.conftest import Stack, must_succeed

pytestmark = pytest.mark.timeout(600)

DAG = "system_status"


def until(condition: Callable[[], object], what: str, timeout: float = 90) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def test_a_wait_is_told_by_status(stack: Stack) -> None:
    airflow = stack.airflow
    airflow.wait_for_dags([DAG])
    go = stack.folder / "status-go"
    run_id = airflow.trigger(DAG, {"go": str(go)})
    until(lambda: airflow.states(DAG, run_id).get("until_told") == "deferred", "the task waits")
    folder = folder_of(airflow.home)

    def reported() -> bool:
        brokers = [broker for file in folder.glob("*.json") for broker in json.loads(file.read_text())["brokers"]]
        return any(each["waiting"] and each["addresses"][0]["state"] == "listening" for each in brokers)

    until(reported, "a report")
    told = json.loads(airflow.run("panda", "status", "-o", "json"))
    assert told["ok"], told
    (process,) = told["processes"]
    family = airflow.processes["triggerer"].family()
    assert process["pid"] in [each.pid for each in family], "it is told by the process that runs the triggers"
    (broker,) = process["brokers"]
    assert broker["name"] == "broker"
    assert [each["state"] for each in broker["addresses"]] == ["listening"]
    assert broker["waiting"] == 1
    (panda,) = process["connections"]
    assert (panda["name"], panda["broker"], panda["waiting"]) == ("panda_default", "broker", 1)
    assert [each["tasks"] for each in told["deferred"]] == [1]
    assert {"PanDA (panda_default)": "ok", "iDDS (panda_default)": "skipped"}.items() <= {
        each["step"]: each["verdict"] for each in told["steps"]
    }.items()
    lines = airflow.run("panda", "status", "--probe")
    assert f"process {process['pid']}" in lines
    secrets = (stack.grid.token(), stack.broker.subscriber.passcode, stack.broker.publisher.passcode)
    written = "".join(file.read_text() for file in folder.glob("*.json"))
    assert not [secret for secret in secrets if secret in written]
    assert [path.stat().st_mode & 0o077 for path in (folder, *folder.glob("*.json"))] == [0, 0]

    go.touch()
    must_succeed(airflow, DAG, run_id)
    until(lambda: not list(folder.glob("*.json")), "the report goes when nobody waits any more")
    assert json.loads(airflow.run("panda", "status", "-o", "json"))["processes"] == []
    assert psutil.pid_exists(process["pid"])


@pytest.mark.skipif(importlib.util.find_spec("statsd") is None, reason="needs apache-airflow[statsd]")
def test_a_triggerer_sends_its_metrics(stack: Stack) -> None:
    statsd = stack.statsd  # the function that warmed it up was waited for already
    until(lambda: statsd.values("airflow.panda.hub.waiting.broker")[-1:] == ["0|g"], "nobody waits any more")
    assert "1|g" in statsd.values("airflow.panda.hub.connected.broker")
    assert "1|g" in statsd.values("airflow.panda.hub.waiting.broker")
    assert "1|g" in statsd.values("airflow.panda.waiting.panda_default")
    assert statsd.total("airflow.panda.hub.delivered.broker") >= 1
    assert statsd.total("airflow.panda.hub.messages.broker") >= 1
    latencies = [float(value.removesuffix("|ms")) for value in statsd.values("airflow.panda.hub.latency.broker")]
    assert latencies
    assert all(0 <= each < 600_000 for each in latencies)
    assert len(statsd.values("airflow.panda.hub.latency_max.broker")) == len(latencies)
    until(lambda: statsd.values("airflow.panda.hub.connected.broker")[-1:] == ["0|g"], "the hub is closed")
