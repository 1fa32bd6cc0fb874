"""A private installation to do harm to: Airflow on PostgreSQL, a real ActiveMQ, a grid, a real iDDS if asked for."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil

from airflow_provider_panda.broker.endpoint import BrokerEndpoint
from airflow_provider_panda.grid.endpoint import AuthKind, PandaEndpoint
from airflow_provider_panda.grid.names import secret_name
from airflow_provider_panda.grid.panda import PandaGrid
from airflow_provider_panda.grid.task import instance_id
from airflow_provider_panda.payload.delivery import user_secret
from benchmarks import bytecode
from demo.airflow import COMPONENTS, Airflow
from demo.grid import Grid
from demo.processes import free_ports
from tests.chaos.plan import SECOND_TRIGGERER
from tests.chaos.workload import Workload
from tests.stack.activemq import ActiveMQ
from tests.stack.faulty_proxy import FaultyProxy, faulty_proxy
from tests.stack.guard import Guard
from tests.stack.postgres import PostgreSQL
from tests.stack.stack import Stack

ROOT: Final = Path(__file__).parents[2]
SLOTS: Final = 40
GRID_ARGUMENTS: Final = ("--queue-delay", "0.5", "--register-delay", "0.3", "--finish-delay", "0.3")

# By default Airflow takes minutes to miss a process. With these it takes seconds, so that a run of some minutes meets
# what a production meets in days.
RECOVERY: Final = {
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "25",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
    "AIRFLOW__PANDA__POLL_INTERVAL": "5",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A long-lived process that the suite started, watches, kills and starts again.

    :param name: as plans name it.
    :param pid: its process id at this time.
    :param restart: ends what is left of it, starts it again, and returns when it works as far as that can be told.
    :param log: its output.
    """

    name: str
    pid: Callable[[], int]
    restart: Callable[[], None]
    log: Path

    def alive(self) -> bool:
        """Tell whether it runs (a stopped one does)."""
        return is_alive(self.pid())


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What a run uses.

    :param airflow: Airflow, with its connections made.
    :param grid: the embedded grid.
    :param broker: ActiveMQ.
    :param way_to_panda: the proxy by which Airflow reaches PanDA.
    :param parts: every long-lived process by its name.
    :param folder: logs and data.
    """

    airflow: Airflow
    grid: Grid
    broker: ActiveMQ
    way_to_panda: FaultyProxy
    parts: dict[str, Part]
    folder: Path

    @property
    def grid_store(self) -> Path:
        """The grid's database."""
        return self.grid.folder / "data" / "grid.sqlite"


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that ended and was not waited for does not."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def session_of(pid: int) -> list[psutil.Process]:
    """Return what lives of the session that a process leads or led: its family, whoever is their parent by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def signal_all(processes: list[psutil.Process], number: int) -> None:
    """Signal processes; those that are gone are left out."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@contextlib.contextmanager
def installed(folder: Path, workload: Workload, *, triggerers: int = 1) -> Iterator[Installation]:
    """Start everything, and end it afterwards; also when this process is killed.

    :param folder: of Airflow's home, and of the grid where no iDDS is asked for.
    :param workload: whose DAG file is read.
    :param triggerers: one, or two that share the work.
    """
    dags, marks = folder / "dags", folder / "marks"
    dags.mkdir()
    marks.mkdir()
    (dags / "chaos_functions.py").write_text(workload.dag_file(marks))
    with contextlib.ExitStack() as ends:
        guard = Guard()
        ends.callback(guard.close)
        stack: Stack | None = None
        if workload.idds:
            stack = ends.enter_context(Stack(grid_arguments=GRID_ARGUMENTS, slots=SLOTS))
            broker, grid = stack.broker, stack.grid
        else:
            broker = ActiveMQ(on_start=guard.watch)
            ends.callback(broker.close)
            broker.start()
            guard.own(broker.log_file.parent)
            grid = Grid(
                folder / "grid", ["--no-broker", "--slots", str(SLOTS), *GRID_ARGUMENTS], env=dict(bytecode.KEPT)
            )
            guard.watch(grid.process.pid)
            ends.callback(grid.stop)
        database = PostgreSQL(on_start=guard.watch)
        ends.callback(database.close)
        database.start()
        guard.own(database.folder)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        url = database.url.replace("postgresql://", "postgresql+psycopg2://")
        airflow = Airflow(
            folder / "airflow",
            dags,
            parallelism=4,
            settings={**bytecode.KEPT, "PYTHONPATH": path, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url, **RECOVERY},
            on_start=guard.watch,
        )
        ends.callback(airflow.stop)
        airflow.start()
        proxy = ends.enter_context(faulty_proxy(grid.url))
        _connect(airflow, grid, proxy, broker, stack)
        parts = _parts(airflow, grid, broker, stack, guard)
        if triggerers > 1:
            second = _second_triggerer(airflow)
            parts[second.name] = second
        yield Installation(airflow=airflow, grid=grid, broker=broker, way_to_panda=proxy, parts=parts, folder=folder)


def _parts(airflow: Airflow, grid: Grid, broker: ActiveMQ, stack: Stack | None, guard: Guard) -> dict[str, Part]:
    def restart_broker() -> None:
        broker.stop()
        broker.start()

    http_port = grid.url.rpartition(":")[2]

    def restart_grid() -> None:
        grid.stop()
        grid.start(http_port, "0")
        guard.watch(grid.process.pid)

    parts = [_airflow_part(airflow, name, partial(airflow.start_component, name)) for name in COMPONENTS]
    parts.append(Part(name="broker", pid=lambda: broker.pid, restart=restart_broker, log=broker.log_file))
    parts.append(Part(name="panda", pid=lambda: grid.process.pid, restart=restart_grid, log=grid.folder / "grid.log"))
    if stack is not None:
        parts += _idds_parts(stack)
    return {part.name: part for part in parts}


def _second_triggerer(airflow: Airflow) -> Part:
    (port,) = free_ports(1)
    settings = {"AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(port)}

    def start() -> None:
        airflow.start_component("triggerer", name=SECOND_TRIGGERER, settings=settings)

    start()
    return _airflow_part(airflow, SECOND_TRIGGERER, start)


def _airflow_part(airflow: Airflow, name: str, start: Callable[[], None]) -> Part:
    def restart() -> None:
        # What a service manager does: nothing of the old one is left beside the new one.
        old = airflow.processes[name]
        left = session_of(old.pid)
        signal_all(left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=10)
        old.stop()
        start()

    return Part(name=name, pid=lambda: airflow.processes[name].pid, restart=restart, log=airflow.home / f"{name}.log")


def _idds_parts(stack: Stack) -> list[Part]:
    idds = stack.idds

    def restart_rest() -> None:
        idds.stop_rest()
        idds.start_rest()

    def restart_agents() -> None:
        idds.stop_agents(kill=True)
        idds.start_agents()

    return [
        Part(name="idds-rest", pid=lambda: idds.rest_pid, restart=restart_rest, log=idds.rest_log),
        Part(name="idds-agents", pid=lambda: idds.agents_pid, restart=restart_agents, log=idds.agents_log),
    ]


def _connect(airflow: Airflow, grid: Grid, proxy: FaultyProxy, broker: ActiveMQ, stack: Stack | None) -> None:
    """Make the connections as a user does in the UI, and the user secret that `airflow panda setup` makes."""
    secret = secrets.token_hex(16)
    instance = instance_id(secret)
    publisher = {"publisher_login": broker.publisher.name, "publisher_password": broker.publisher.passcode}

    def add_broker(conn_id: str, extra: dict[str, Any]) -> None:
        airflow.add_connection(
            conn_id, "stomp", host=broker.host, port=broker.port,
            login=broker.subscriber.name, password=broker.subscriber.passcode, extra={**publisher, **extra},
        )  # fmt: skip

    extra = {"auth": "token", "vo": "wlcg", "broker_conn_id": "broker", "instance_secret": secret}
    add_broker("broker", {})
    fields = {**grid.panda_fields(), "port": proxy.port}
    airflow.add_connection("panda_default", "panda", **fields, extra=extra)
    if stack is not None:
        access = stack.access
        add_broker("broker_idds", {"result_destination": access.result_destination})
        through = {
            "service": "idds",
            "idds_host": access.idds_url,
            "queue": access.queue,
            "broker_conn_id": "broker_idds",
        }
        airflow.add_connection("panda_idds", "panda", **fields, extra={**extra, **through})
    panda = PandaGrid(PandaEndpoint(url=grid.url, auth=AuthKind.TOKEN, token=grid.token(), vo="wlcg"))
    endpoint = BrokerEndpoint(
        addresses=((broker.host, broker.port),),
        login=broker.subscriber.name,
        passcode=broker.subscriber.passcode,
        publisher_login=broker.publisher.name,
        publisher_passcode=broker.publisher.passcode,
    )
    panda.set_secret(secret_name(instance), user_secret(secret, endpoint))


def remove(folder: Path) -> None:
    """Remove a folder of a run."""
    shutil.rmtree(folder, ignore_errors=True)
