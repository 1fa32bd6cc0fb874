"""All real services together: ActiveMQ, PostgreSQL, iDDS, and the embedded grid as iDDS's PanDA.

In a test::

    with Stack() as stack:
        stack.access.idds_url, stack.access.panda_url, stack.access.token, stack.access.broker
        stack.broker.restart(down=5)

For a developer: ``python -m tests.stack.stack`` (``make stack``) keeps it up and prints how to reach it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from airflow_provider_panda.local.auth import AUDIENCE
from airflow_provider_panda.local.options import BROKER_LOGIN_VARIABLE, BROKER_PASSCODE_VARIABLE
from demo.grid import Grid
from demo.processes import free_ports
from deploy.idds.configuration import Configuration
from tests.stack import activemq, idds, postgres
from tests.stack.activemq import ActiveMQ, Login
from tests.stack.guard import Guard
from tests.stack.idds import Idds
from tests.stack.postgres import PostgreSQL

VO: Final = "wlcg"
NO_DELAYS: Final = tuple(
    word for name in ("queue", "register", "report", "finish", "retry", "command") for word in (f"--{name}-delay", "0")
)


@dataclass(frozen=True, kw_only=True)
class Access:
    """How the services of a stack are reached.

    :param panda_url: base URL of the PanDA server (without ``/server/panda``); the OIDC issuer is there, too.
    :param token: a token of it, with the production role.
    :param vo: the token's virtual organisation.
    :param queue: a PanDA queue.
    :param idds_url: base URL of iDDS's REST service.
    :param idds_user: iDDS's name for a caller without token (auth type x509_proxy).
    :param broker_host: host of the broker.
    :param broker_port: its STOMP port.
    :param subscriber: broker login of Airflow.
    :param publisher: broker login of worker nodes.
    :param services_login: broker login of PanDA and iDDS.
    :param result_destination: where results are published so that iDDS sees them.
    :param status_destination: where PanDA publishes states.
    :param database_url: iDDS's database.
    :param folder: where logs and data of all services are.
    """

    panda_url: str
    token: str = field(repr=False)
    vo: str
    queue: str
    idds_url: str
    idds_user: str
    broker_host: str
    broker_port: int
    subscriber: Login
    publisher: Login
    services_login: Login
    result_destination: str
    status_destination: str
    database_url: str = field(repr=False)
    folder: Path


def missing() -> str | None:
    """Return why the stack cannot be started here, or None."""
    return activemq.missing() or postgres.missing() or idds.missing()


class Stack:
    """All services, each with its own ports, in one folder; nothing of them is left when it is closed.

    Parts can be stopped and started while the others run: ``broker`` and ``postgres`` (``stop``, ``start``,
    ``restart``), ``idds`` (``stop_rest``, ``start_rest``, ``stop_agents``, ``start_agents``) and the grid
    (:meth:`stop_grid`, :meth:`start_grid`).

    :param store_results: whether iDDS stores the results that pass the broker.
    :param grid_arguments: further arguments of the embedded grid; its delays are zero.
    :param slots: jobs that the grid runs at once.
    :param fast: iDDS's agents in fast mode.
    :param user_dn: DN of every caller of iDDS that brings no token; None: callers need a token.
    """

    def __init__(
        self,
        *,
        store_results: bool = True,
        grid_arguments: Sequence[str] = (),
        slots: int = 8,
        fast: bool = True,
        user_dn: str | None = idds.USER_DN,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="panda-stack-"))
        self._guard = Guard()
        self._guard.own(self.folder)
        watch = self._guard.watch
        self.broker, self.postgres = ActiveMQ(on_start=watch), PostgreSQL(on_start=watch)
        self._idds_user = (user_dn or "").rpartition("=")[2]
        rest_port, grid_port = free_ports(2)
        self._grid_port = str(grid_port)
        self.panda_url = f"http://127.0.0.1:{grid_port}"
        services = self.broker.other
        self.idds = Idds(
            Configuration(
                folder=self.folder / "idds",
                database_url=self.postgres.url,
                rest_url=f"http://127.0.0.1:{rest_port}",
                broker=f"{self.broker.host}:{self.broker.port}",
                broker_login=services.name,
                broker_passcode=services.passcode,
                panda_url=self.panda_url,
                panda_vo=f"{VO}:production",
                oidc_config_url=f"{self.panda_url}/.well-known/openid-configuration",
                audience=AUDIENCE,
                store_results=store_results,
            ),
            user_dn=user_dn,
            fast=fast,
            on_start=watch,
        )
        self.grid: Grid
        self.access: Access
        self._grid_arguments = [
            "--no-broker", "--broker", f"{self.broker.host}:{self.broker.port}",
            "--idds-host", self.idds.configuration.rest_url, "--slots", str(slots), *NO_DELAYS, *grid_arguments,
        ]  # fmt: skip

    def __enter__(self) -> Stack:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start everything, what does not need each other at the same time, and wait until it works."""
        self.idds.prepare()
        with ThreadPoolExecutor(4) as pool:
            others = [pool.submit(start) for start in (self.broker.start, self.idds.start_rest, self._make_grid)]
            self.postgres.start()
            self.idds.make_schema()
            for each in others:
                each.result()
        self._guard.own(self.postgres.folder)
        self._guard.own(self.broker.log_file.parent)
        self.idds.start_agents(self.grid.token())
        conf = self.idds.configuration
        self.access = Access(
            panda_url=self.grid.url,
            token=self.grid.token(),
            vo=VO,
            queue=str(self.grid.ready["queues"][0]),
            idds_url=conf.rest_url,
            idds_user=self._idds_user,
            broker_host=self.broker.host,
            broker_port=self.broker.port,
            subscriber=self.broker.subscriber,
            publisher=self.broker.publisher,
            services_login=self.broker.other,
            result_destination=conf.result_destination,
            status_destination=conf.status_destination,
            database_url=conf.database_url,
            folder=self.folder,
        )

    def pids(self) -> list[int]:
        """Return the process ids of the services that run."""
        found = self.idds.pids()
        with contextlib.suppress(AssertionError):
            found.append(self.broker.pid)
        with contextlib.suppress(AssertionError):
            found.append(self.postgres.pid)
        if hasattr(self, "grid"):
            found.append(self.grid.process.pid)
        return found

    def close(self) -> None:
        """Stop everything and remove its files."""
        with ThreadPoolExecutor(4) as pool:
            ends: list[Callable[[], None]] = [self.idds.close, self.broker.close, self._close_grid]
            for done in [pool.submit(end) for end in ends]:
                done.result()
        self.postgres.close()
        self._guard.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop_grid(self) -> None:
        """Stop the embedded grid; its tasks stay."""
        self.grid.stop()

    def start_grid(self) -> None:
        """Start the embedded grid again, on the same port."""
        self.grid.start(self._grid_port, "0")
        self._guard.watch(self.grid.process.pid)

    def _make_grid(self) -> None:
        folder = self.folder / "grid"
        transforms = folder / "data" / "trf"
        transforms.mkdir(mode=0o700, parents=True)
        (transforms / self.idds.wrapper.name).symlink_to(self.idds.wrapper)
        # A pilot gives its payloads a proxy, with which iDDS's own runner asks iDDS for the broker. What is in the
        # file matters to nobody here: the REST service knows its caller from its configuration.
        proxy = folder / "proxy"
        proxy.write_text("not a certificate\n")
        environment = {
            BROKER_LOGIN_VARIABLE: self.broker.other.name,
            BROKER_PASSCODE_VARIABLE: self.broker.other.passcode,
            "X509_USER_PROXY": str(proxy),
        }
        # Grid gives a port of its own; the last of two equal arguments counts.
        self.grid = Grid(folder, [*self._grid_arguments, "--http-port", self._grid_port], env=environment)
        self._guard.watch(self.grid.process.pid)

    def _close_grid(self) -> None:
        if hasattr(self, "grid"):
            self.grid.stop()


def as_json(access: Access) -> dict[str, Any]:
    """Return an access as JSON, with Airflow connections that use it."""
    host, _, port = access.panda_url.rpartition(":")
    broker = {
        "conn_type": "stomp",
        "host": access.broker_host,
        "port": access.broker_port,
        "login": access.subscriber.name,
        "password": access.subscriber.passcode,
        "extra": {
            "publisher_login": access.publisher.name,
            "publisher_password": access.publisher.passcode,
            "result_destination": access.result_destination,
        },
    }
    panda = {
        "conn_type": "panda",
        "host": host,
        "port": int(port),
        "password": access.token,
        "extra": {
            "auth": "token",
            "vo": access.vo,
            "service": "idds",
            "idds_host": access.idds_url,
            "queue": access.queue,
            "broker_conn_id": "broker",
            "monitor_url": access.panda_url,
        },
    }
    return {
        "panda_url": access.panda_url,
        "token": access.token,
        "idds_url": access.idds_url,
        "idds_user": access.idds_user,
        "database_url": access.database_url,
        "folder": str(access.folder),
        "result_destination": access.result_destination,
        "status_destination": access.status_destination,
        "services_login": [access.services_login.name, access.services_login.passcode],
        "connections": {"broker": broker, "panda_default": panda},
    }


def main(arguments: Sequence[str]) -> int:
    """Keep a stack up until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.stack.stack", description=__doc__.splitlines()[0])
    parser.add_argument("--no-store", action="store_true", help="iDDS does not store results, as by default in iDDS")
    parser.add_argument("--plain", action="store_true", help="agents as they are, not in fast mode")
    parser.add_argument("--slots", type=int, default=8, help="jobs at once (default: %(default)s)")
    args = parser.parse_args(arguments)
    reason = missing()
    if reason:
        print(reason, file=sys.stderr)
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    began = time.monotonic()
    with Stack(store_results=not args.no_store, slots=args.slots, fast=not args.plain) as stack:
        print(json.dumps(as_json(stack.access), indent=2), flush=True)
        print(f"up after {time.monotonic() - began:.1f} s; Ctrl-C ends it", file=sys.stderr, flush=True)
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
