"""``python -m deploy.compose.airflow_init``: make the Airflow of docker-compose.yml ready, or bring it up to date.

Makes the tables, the password of the UI's user, and the connections ``broker`` and ``panda_default``; then runs
``airflow panda setup`` and ``airflow panda check``. May be repeated: of a connection that is there, only the fields
that the environment sets are written, so the instance secret and what a user added stay.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

USER = "admin"
BROKER = "broker"
PANDA = "panda_default"
RESULTS = {"idds": "/topic/doma.idds", "panda": "/topic/airflow.panda.results"}
"""Where jobs publish results, by service: iDDS stores what passes its own topic; what is of no request fails there."""
STATES = "/topic/panda_idds"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A connection as the environment wants it.

    :param password: None: whatever it is.
    :param extra: extra fields that are set; others stay.
    """

    conn_id: str
    conn_type: str
    host: str
    port: int
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)


def connections(environ: Mapping[str, str]) -> list[Wanted]:
    """Return the connections that the environment describes.

    :raises KeyError: a variable is missing; its name is the argument.
    """
    service = environ.get("PANDA_SERVICE") or "idds"
    broker_host, _, broker_port = environ["BROKER_ADDRESS"].rpartition(":")
    panda = urlsplit(environ["PANDA_URL"])
    return [
        Wanted(
            conn_id=BROKER,
            conn_type="stomp",
            host=broker_host,
            port=int(broker_port),
            login="airflow",
            password=environ["BROKER_AIRFLOW_PASSCODE"],
            extra={
                "publisher_login": "worker",
                "publisher_password": environ["BROKER_WORKER_PASSCODE"],
                "result_destination": RESULTS[service],
                "status_destination": STATES,
            },
        ),
        Wanted(
            conn_id=PANDA,
            conn_type="panda",
            host=f"{panda.scheme}://{panda.hostname}",
            port=panda.port or 443,
            extra={
                "auth": "token_file",
                "token_file": environ["PANDA_TOKEN_FILE"],
                "vo": environ["PANDA_VO"],
                "service": service,
                "idds_host": environ["IDDS_URL"],
                "broker_conn_id": BROKER,
                "monitor_url": environ["PANDA_MONITOR_URL"],
            },
        ),
    ]


def merged(extra: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return the text of a connection's extra field with what is wanted in it."""
    return json.dumps({**extra, **wanted})


def write_password(path: Path, user: str, password: str) -> None:
    """Write the file that Airflow's simple auth manager reads passwords from, readable by its owner only."""
    scratch = path.with_name(f".{path.name}")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({user: password}, file)
    scratch.replace(path)


def write_connection(wanted: Wanted) -> None:
    """Make a connection in Airflow's database, or set the wanted fields of the one that is there."""
    from airflow.models import Connection
    from airflow.utils.session import create_session

    with create_session() as session:
        row = session.query(Connection).filter(Connection.conn_id == wanted.conn_id).one_or_none()
        if row is None:
            row = Connection(conn_id=wanted.conn_id, conn_type=wanted.conn_type)
            session.add(row)
        row.conn_type, row.host, row.port = wanted.conn_type, wanted.host, wanted.port
        if wanted.login is not None:
            row.login = wanted.login
        if wanted.password is not None:
            row.set_password(wanted.password)
        row.set_extra(merged(row.extra_dejson, wanted.extra))


def airflow(*arguments: str) -> None:
    """Run an ``airflow`` command.

    :raises subprocess.CalledProcessError: it failed.
    """
    print(f"airflow_init: airflow {' '.join(arguments)}", flush=True)
    subprocess.run(["airflow", *arguments], check=True)  # noqa: S603, S607 - a list of ours; the image has it on PATH


def main() -> int:
    """Do everything and return the exit code."""
    try:
        wanted = connections(os.environ)
        password = os.environ["AIRFLOW_ADMIN_PASSWORD"]
        password_file = Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    except KeyError as error:
        print(f"airflow_init: set the variable {error.args[0]}", file=sys.stderr)
        return 2
    try:
        airflow("db", "migrate")
        write_password(password_file, USER, password)
        for connection in wanted:
            write_connection(connection)
        airflow("panda", "setup", PANDA)
        airflow("panda", "check", PANDA)
    except subprocess.CalledProcessError as error:
        print(f"airflow_init: {' '.join(error.cmd)} ended with {error.returncode}; see above", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
