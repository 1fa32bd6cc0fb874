"""A whole private installation for a benchmark: Airflow's four processes, an embedded grid, a real ActiveMQ.

All of it is in one folder and on loopback, and gone afterwards, also after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.names import secret_name
from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.grid.task import instance_id
from airflow_provider_panda.payload.delivery import user_secret
from benchmarks import bytecode
from demo.airflow import Airflow
from demo.grid import Grid
from tests.stack.activemq import ActiveMQ

ROOT: Final = Path(__file__).parents[1]
SECRET: Final = "benchmark-instance-secret"
INSTANCE: Final = instance_id(SECRET)
CONNECTION: Final = "panda_default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What a benchmark uses.

    :param airflow: Airflow, with connections as a user makes them in the UI.
    :param grid: the embedded grid.
    :param broker: ActiveMQ.
    :param folder: for files.
    """

    airflow: Airflow
    grid: Grid
    broker: ActiveMQ
    folder: Path

    @property
    def endpoint(self) -> BrokerEndpoint:
        """Where results go, and as whom."""
        return broker_endpoint(self.broker)


@contextlib.contextmanager
def installed(
    dag_files: Mapping[str, str], *, grid_arguments: Sequence[str], settings: Mapping[str, str] | None = None
) -> Iterator[Installation]:
    """Start everything, and end it afterwards.

    :param dag_files: text of each DAG file by its name.
    :param grid_arguments: command line of the embedded grid.
    :param settings: further environment variables for Airflow's processes.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(benchmark_folder()))
        dags = folder / "dags"
        dags.mkdir()
        for name, text in dag_files.items():
            (dags / name).write_text(text)
        broker = stack.enter_context(ActiveMQ())
        grid = Grid(folder / "grid", grid_arguments, env=dict(bytecode.KEPT))
        stack.callback(grid.stop)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        airflow = Airflow(
            folder / "airflow", dags, parallelism=4, settings={**bytecode.KEPT, "PYTHONPATH": path, **(settings or {})}
        )
        stack.callback(airflow.stop)
        airflow.start()
        connect(airflow, grid, broker)
        yield Installation(airflow=airflow, grid=grid, broker=broker, folder=folder)


@contextlib.contextmanager
def benchmark_folder() -> Iterator[str]:
    """Make a folder; SIGTERM ends the benchmark as Ctrl-C does, with everything it started."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = tempfile.mkdtemp(prefix="benchmark-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def connect(airflow: Airflow, grid: Grid, broker: ActiveMQ) -> None:
    """Make both connections, and the user secret that `airflow panda setup` makes."""
    publisher = {"publisher_login": broker.publisher.name, "publisher_password": broker.publisher.passcode}
    airflow.add_connection(
        "broker", "stomp", host=broker.host, port=broker.port,
        login=broker.subscriber.name, password=broker.subscriber.passcode, extra=publisher,
    )  # fmt: skip
    extra: dict[str, Any] = {
        "auth": "token", "vo": "wlcg", "broker_conn_id": "broker", "instance_secret": SECRET, "monitor_url": grid.url,
    }  # fmt: skip
    airflow.add_connection(CONNECTION, "panda", **grid.panda_fields(), extra=extra)
    panda = PandaGrid(PandaEndpoint(url=grid.url, auth=AuthKind.TOKEN, token=grid.token(), vo="wlcg"))
    panda.set_secret(secret_name(INSTANCE), user_secret(SECRET, broker_endpoint(broker)))


def broker_endpoint(broker: ActiveMQ) -> BrokerEndpoint:
    """Return the endpoint of a broker as its connection says it."""
    return BrokerEndpoint(
        addresses=((broker.host, broker.port),),
        login=broker.subscriber.name,
        passcode=broker.subscriber.passcode,
        publisher_login=broker.publisher.name,
        publisher_passcode=broker.publisher.passcode,
    )
