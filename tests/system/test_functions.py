"""From a DAG file to XCom: real Airflow processes, a real ActiveMQ, jobs on the embedded grid."""

from __future__ import annotations

import json
import re
import time

import httpx
import psutil
import pytest

from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.panda import PandaGrid
from tests.system.conftest import Stack

pytestmark = pytest.mark.timeout(600)


def ran(stack: Stack, dag_id: str, *, conf: dict[str, object] | None = None, timeout: float = 240) -> tuple[str, str]:
    """Run a DAG to its end; return the run's id and state."""
    stack.airflow.wait_for_dags([dag_id])
    run_id = stack.airflow.trigger(dag_id, conf)
    return run_id, stack.airflow.wait_for_run(dag_id, run_id, timeout=timeout)


def test_hello_grid(stack: Stack) -> None:
    run_id, state = ran(stack, "hello_grid")
    assert state == "success", stack.airflow.states("hello_grid", run_id)
    assert "Hello grid, from Python 3" in stack.airflow.task_log("hello_grid", run_id, "show")


def test_values_come_back_equal(stack: Stack) -> None:
    run_id, state = ran(stack, "system_values")
    assert state == "success", stack.airflow.task_log("system_values", run_id, "make")
    assert stack.airflow.xcom("system_values", run_id, "compare") == {"different": [], "compared": 13}


def test_mapped_calls(stack: Stack) -> None:
    run_id, state = ran(stack, "system_mapped", conf={"prefix": "m"})
    airflow = stack.airflow
    assert state == "success", airflow.states("system_mapped", run_id)
    assert airflow.xcom("system_mapped", run_id, "label") == ["m=125 GeV", "m=91 GeV", "m=80 GeV"]
    assert airflow.xcom("system_mapped", run_id, "describe_failures") == [
        0,
        "JobFailure 1 ValueError: 1 is odd",
        4,
        "JobFailure 3 ValueError: 3 is odd",
    ]
    assert airflow.xcom("system_mapped", run_id, "nothing") == []
    assert [airflow.xcom("system_mapped", run_id, "one_each", map_index=i) for i in range(3)] == [2, 3, 4]
    assert airflow.xcom("system_mapped", run_id, "add") == 3


def test_exception_fails_the_task_and_its_log_tells_where(stack: Stack) -> None:
    run_id, state = ran(stack, "system_raises")
    assert state == "failed"
    (instance,) = stack.airflow.task_instances("system_raises", run_id)
    assert instance["try_number"] == 2  # the Airflow retry was taken
    log = stack.airflow.task_log("system_raises", run_id, "broken", try_number=1)
    assert "ZeroDivisionError: division by zero" in log
    assert "return 1 / m" in log  # the remote traceback with the user's own line
    assert re.search(r"job 0, attempt \d failed on host \S+ \(site LOCAL, PandaID \d+\): ZeroDivisionError", log)


def worker_processes(stack: Stack) -> list[str]:
    """Return the processes that work on a task now; Airflow puts the task instance's id into their titles."""
    titles = [title_of(process) for process in stack.airflow.processes["scheduler"].family()]
    return [title for title in titles if re.search(r"airflow worker -- .*[0-9a-f]{8}-[0-9a-f]{4}-", title)]


def title_of(process: psutil.Process) -> str:
    """Return the command line of a process, nothing for one that is ending."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def broker_connections(stack: Stack) -> int:
    """Return how many TCP connections the triggerer holds to the broker."""
    pids = {process.pid for process in stack.airflow.processes["triggerer"].family()}
    return len(
        {
            (connection.laddr, connection.raddr)
            for connection in psutil.net_connections(kind="tcp")
            if connection.pid in pids
            and connection.status == psutil.CONN_ESTABLISHED
            and connection.raddr.port == stack.broker.port
        }
    )


def test_fifty_wait_without_a_worker_and_on_one_connection(stack: Stack) -> None:
    airflow = stack.airflow
    airflow.wait_for_dags(["system_fifty"])
    go = stack.folder / "go"
    run_id = airflow.trigger("system_fifty", {"go": str(go)})
    seen_working = 0

    end = time.monotonic() + 240
    while sorted(set(airflow.states("system_fifty", run_id).values()), key=str) != ["deferred"] or (
        len(airflow.states("system_fifty", run_id)) != 50
    ):
        assert time.monotonic() < end, airflow.states("system_fifty", run_id)
        seen_working = max(seen_working, len(worker_processes(stack)))
        time.sleep(1)

    assert seen_working > 0  # the look at titles sees workers where there are some
    end = time.monotonic() + 20
    while working := worker_processes(stack):  # the last one to defer takes a moment to leave
        assert time.monotonic() < end, working
        time.sleep(0.2)
    assert broker_connections(stack) == 1

    go.touch()
    assert airflow.wait_for_run("system_fifty", run_id, timeout=400) == "success"
    values = [airflow.xcom("system_fifty", run_id, "wait_for_file", map_index=i) for i in range(50)]
    assert values == list(range(50))


def grid_status(stack: Stack, task_id: int) -> str:
    """Return what the embedded grid says of a task."""
    answer = httpx.get(
        f"{stack.grid.url}/api/v1/task/get_status",
        params={"task_id": task_id},
        headers={"Authorization": f"Bearer {stack.grid.token()}", "Origin": "wlcg", "Accept": "application/json"},
    )
    return str(answer.json()["data"])


def wait_for_grid_status(stack: Stack, task_id: int, wanted: str, *, timeout: float = 60) -> None:
    """Wait until the embedded grid says ``wanted`` of a task."""
    end = time.monotonic() + timeout
    while (status := grid_status(stack, task_id)) != wanted:
        assert time.monotonic() < end, f"PanDA task {task_id} is {status}, not {wanted}"
        time.sleep(0.5)


def wait_for_state(stack: Stack, dag_id: str, run_id: str, task_id: str, wanted: str) -> None:
    """Wait until a task instance is in a state."""
    end = time.monotonic() + 240
    while (state := stack.airflow.states(dag_id, run_id)[task_id]) != wanted:
        assert time.monotonic() < end, f"{task_id} is {state}, not {wanted}"
        time.sleep(0.5)


def test_marking_a_waiting_task_failed_kills_the_grid_task(stack: Stack) -> None:
    airflow = stack.airflow
    airflow.wait_for_dags(["system_long"])
    run_id = airflow.trigger("system_long")
    wait_for_state(stack, "system_long", run_id, "sleep_long", "deferred")
    task_id = int(airflow.xcom("system_long", run_id, "sleep_long", key="panda_task_id"))
    # Airflow forgets a trigger that did not start yet (facts/airflow.md section 2): wait for its own word.
    end = time.monotonic() + 60
    while f"PanDA task {task_id} is running" not in airflow.task_log("system_long", run_id, "sleep_long"):
        assert time.monotonic() < end, "the trigger said nothing"
        time.sleep(0.5)
    answer = airflow.client.patch(
        f"/dags/system_long/dagRuns/{run_id}/taskInstances/sleep_long", json={"new_state": "failed"}
    )
    answer.raise_for_status()
    wait_for_grid_status(stack, task_id, "aborted")


def test_deadline_kills_the_grid_task(stack: Stack) -> None:
    run_id, state = ran(stack, "system_deadline")
    assert state == "failed"
    assert "deadline" in stack.airflow.task_log("system_deadline", run_id, "too_slow")
    task_id = int(stack.airflow.xcom("system_deadline", run_id, "too_slow", key="panda_task_id"))
    wait_for_grid_status(stack, task_id, "aborted")


def test_unknown_queue_is_told_in_words(stack: Stack) -> None:
    run_id, state = ran(stack, "system_unknown_queue")
    assert state == "failed"
    log = stack.airflow.task_log("system_unknown_queue", run_id, "anywhere")
    assert "unknown site=NO_SUCH_SITE" in log
    assert "<a href" not in log


def test_what_cannot_run_or_travel_says_why(stack: Stack) -> None:
    run_id, state = ran(stack, "system_unfit")
    assert state == "failed"
    log = {
        task: stack.airflow.task_log("system_unfit", run_id, task)
        for task in stack.airflow.states("system_unfit", run_id)
    }
    assert "numpy" in log["needs_numpy"]
    assert "$.points[1]" in log["returns_a_socket"]
    assert "socket" in log["returns_a_socket"]
    assert "result store" in log["returns_too_much"]


def test_results_too_large_for_an_event_are_fetched(stack: Stack) -> None:
    run_id, state = ran(stack, "system_big")
    assert state == "success", stack.airflow.task_log("system_big", run_id, "big")
    assert stack.airflow.xcom("system_big", run_id, "check") == [True] * 6


def test_argument_whose_class_is_in_the_dag_file(stack: Stack) -> None:
    run_id, state = ran(stack, "system_arguments")
    assert state == "success", stack.airflow.task_log("system_arguments", run_id, "apply")
    assert stack.airflow.xcom("system_arguments", run_id, "apply") == "pt > 25.0"


def test_small_tth_optimisation(stack: Stack) -> None:
    run_id, state = ran(stack, "tth_hpo", conf={"rounds": 2, "points": 3, "events": 4000}, timeout=300)
    assert state == "success", stack.airflow.states("tth_hpo", run_id)


def test_check_command_says_what_works_and_what_does_not(stack: Stack) -> None:
    told = stack.airflow.run("panda", "check", "panda_default")
    assert "wrong " not in told
    for step in ("connection", "PanDA", "clock", "credentials", "VO", "instance", "user secret", "download"):
        assert f"ok      {step}: " in told
    for step in ("login", "subscribe", "publish", "delivery"):
        assert f"ok      broker {step}: " in told
    stack.airflow.add_connection(
        "panda_wrong", "panda", host=stack.grid.url, password="no-token", extra={"auth": "token", "vo": "wlcg"}
    )
    with pytest.raises(RuntimeError, match=r"ended with 1:(?s:.)*wrong   VO: (?s:.)*token"):
        stack.airflow.run("panda", "check", "panda_wrong")


def test_no_secret_in_logs_database_or_task_parameters(stack: Stack) -> None:
    """Token, passcodes and instance secret stay out of logs, Airflow's database (but encrypted) and PanDA's records."""
    panda = PandaGrid(
        PandaEndpoint(url=stack.grid.url, auth=AuthKind.TOKEN, token=stack.grid.token(), vo="wlcg"),
    )
    ((name, stored),) = ((k, v) for k, v in panda.secrets().items() if k.startswith("AIRFLOW_PANDA_"))
    secrets = [
        stack.grid.token(),
        stack.broker.subscriber.passcode,
        stack.broker.publisher.passcode,
        json.loads(stored)["instance_secret"],
    ]
    tasks = panda.statuses(f"airflow-{name.removeprefix('AIRFLOW_PANDA_').lower()}")
    assert tasks
    texts = {f"PanDA task {task.task_id}": parameters_of(stack, task.task_id) for task in tasks}
    home = stack.folder / "airflow"
    for file in [*home.rglob("*.log"), *home.glob("airflow.db*"), *(stack.folder / "grid").glob("*.log")]:
        texts[str(file)] = file.read_bytes().decode("utf-8", "replace")
    assert any("bash-c-enc" in text for text in texts.values())
    for place, text in texts.items():
        for secret in secrets:
            assert secret not in text, place


def parameters_of(stack: Stack, task_id: int) -> str:
    """Return the parameters of a task as PanDA shows them to any authenticated user."""
    answer = httpx.get(
        f"{stack.grid.url}/api/v1/task/get_task_parameters",
        params={"task_id": task_id},
        headers={"Authorization": f"Bearer {stack.grid.token()}", "Origin": "wlcg", "Accept": "application/json"},
    )
    return json.dumps(answer.json()["data"])
