"""One private Airflow, one embedded grid and one real ActiveMQ for all system tests."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.airflow import Airflow
from demo.grid import Grid
from tests.stack.activemq import ActiveMQ
from tests.stack.statsd import Statsd

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that start an Airflow of their own first: the one that others share runs from its first test on."""
    places = [place for place, item in enumerate(items) if item.path.is_relative_to(Path(__file__).parent)]
    ordered = sorted((items[place] for place in places), key=_shares_an_airflow)
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


def _shares_an_airflow(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and "stack" in item.fixturenames


@dataclass(frozen=True)
class Stack:
    """What a system test uses."""

    airflow: Airflow
    grid: Grid
    broker: ActiveMQ
    folder: Path
    statsd: Statsd | None = None
    """Gets Airflow's metrics, where there is one and the package statsd is installed (apache-airflow[statsd])."""


@pytest.fixture(scope="session")
def stack(activemq: ActiveMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Airflow with both connections made and its instance set up."""
    folder = tmp_path_factory.mktemp("system")
    dags = folder / "dags"
    dags.mkdir()
    for source in [*(ROOT / "dags").glob("*.py"), *(ROOT / "tests/system/dags").glob("*.py")]:
        shutil.copy(source, dags)
    bare = _bare_python(folder)
    for file in dags.glob("system_*.py"):
        file.write_text(file.read_text().replace("@WORKER_PYTHON@", sys.executable).replace("@BARE_PYTHON@", bare))
    # Jobs that end before their trigger is up would be told by PanDA's record only.
    grid = Grid(folder / "grid", ["--slots", "60", "--queue-delay", "2"])
    statsd = Statsd()
    try:
        airflow = Airflow(
            folder / "airflow",
            dags,
            settings={"AIRFLOW__PANDA__POLL_INTERVAL": "5", "TTH_PYTHON": sys.executable, **metrics_to(statsd)},
        )
        try:
            airflow.start()
            connect(airflow, grid, activemq)
            warm_up(airflow)
            yield Stack(airflow=airflow, grid=grid, broker=activemq, folder=folder, statsd=statsd)
        finally:
            airflow.stop()
    finally:
        grid.stop()
        statsd.close()


def metrics_to(statsd: Statsd) -> dict[str, str]:
    """Return the settings by which Airflow sends its metrics to a StatsD server, if it has a client for it."""
    if importlib.util.find_spec("statsd") is None:
        return {}
    return {
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
        "AIRFLOW__METRICS__STATSD_PORT": str(statsd.port),
    }


def connect(airflow: Airflow, grid: Grid, broker: ActiveMQ) -> None:
    """Make the connections through the API, as a user does in the UI, and set the instance up by the command."""
    airflow.add_connection(
        "broker",
        "stomp",
        host=broker.host,
        port=broker.port,
        login=broker.subscriber.name,
        password=broker.subscriber.passcode,
        extra={"publisher_login": broker.publisher.name, "publisher_password": broker.publisher.passcode},
    )
    airflow.add_connection(
        "panda_default",
        "panda",
        **grid.panda_fields(),
        extra={"auth": "token", "vo": "wlcg", "broker_conn_id": "broker", "monitor_url": grid.url},
    )
    airflow.run("panda", "setup", "panda_default")


def must_succeed(airflow: Airflow, dag_id: str, run_id: str) -> None:
    """Wait until a DAG run is over, and fail with the logs of what failed in it."""
    if airflow.wait_for_run(dag_id, run_id) == "success":
        return
    said = [str(airflow.states(dag_id, run_id))]
    for each in airflow.task_instances(dag_id, run_id):
        if each["state"] == "failed":
            said.append(airflow.task_log(dag_id, run_id, each["task_id"], each["try_number"], each["map_index"]))
    pytest.fail("\n".join(said))


def warm_up(airflow: Airflow) -> None:
    """Run one grid task: the first look-up of a triggerer's life takes ten seconds (facts/airflow.md section 2)."""
    airflow.wait_for_dags(["hello_grid"])
    run_id = airflow.trigger("hello_grid")
    must_succeed(airflow, "hello_grid", run_id)


def _bare_python(folder: Path) -> str:
    """Return a Python without any package, as on a worker node that has nothing."""
    import venv

    venv.create(folder / "bare", with_pip=False, symlinks=True)
    return str(folder / "bare" / "bin" / "python")
