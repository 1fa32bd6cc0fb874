"""Tries of task instances as processes of their own, which are killed at an exchange with PanDA or Airflow.

A child is forked, as Airflow's workers are, and executes the operator up to its deferral. Each request that it makes,
to PanDA, to the task state store or for an XCom, is an exchange; the child kills itself by SIGKILL before or after the
one that it was told.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_panda.grid import session
from airflow_provider_panda.triggers.function import PandaFunctionTrigger

KILLED = -signal.SIGKILL
DEFERRED = 10
"""Exit code of a child whose operator deferred."""
RAISED = 11
"""Exit code of a child whose operator raised."""


class Store:
    """A task state store in a file, for processes one after another or at the same time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        with self.path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            content: dict[str, Any] = json.loads(file.read() or "{}")
            yield content
            file.seek(0)
            file.truncate()
            file.write(json.dumps(content))
            file.flush()

    def get(self, name: str, default: Any = None) -> Any:
        with self._locked() as content:
            return content.get(name, default)

    def set(self, name: str, value: Any) -> None:
        with self._locked() as content:
            content[name] = value


@dataclass
class TaskInstance:
    """What operators use of a task instance; its XComs go to a file, for a child's are gone with it."""

    run_id: str
    xcom_file: Path
    task_id: str = "work"
    dag_id: str = "tries"
    map_index: int = -1
    id: str = field(default_factory=lambda: str(uuid4()))

    def xcom_push(self, key: str, value: Any) -> None:
        Store(self.xcom_file).set(key, value)

    def xcom_pull(self, task_ids: Any = None, key: str = "return_value", map_indexes: Any = None) -> Any:
        return Store(self.xcom_file).get(key)


@dataclass(frozen=True)
class Kill:
    """Where a worker is killed.

    :param number: which exchange, from 1.
    :param forwarded: whether the exchange was made; its answer never arrives in either case.
    :param signal: by SIGKILL, or by SIGTERM as Airflow does first.
    """

    number: int
    forwarded: bool
    signal: signal.Signals = signal.SIGKILL

    def strike(self) -> None:
        """Kill this process."""
        os.kill(os.getpid(), self.signal)

    def __str__(self) -> str:
        return f"{'after' if self.forwarded else 'before'} exchange {self.number}"


class Exchanges:
    """Counts the exchanges of this process, and ends it at one of them.

    :param kill: where, or None for nowhere.
    :param log: file that tells them, one line each.
    """

    def __init__(self, kill: Kill | None, log: Path) -> None:
        self.kill, self.log, self.count = kill, log, 0

    def begins(self, what: str) -> bool:
        """Note an exchange; return whether the process ends right after it."""
        self.count += 1
        with self.log.open("a") as file:
            file.write(f"{what}\n")
        if self.kill is None or self.kill.number != self.count:
            return False
        if not self.kill.forwarded:
            self.kill.strike()
            return False
        return True

    def call(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose calls are exchanges."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            last = self.begins(what)
            result = function(*args, **kwargs)
            if last and self.kill is not None:
                self.kill.strike()
            return result

        return counted

    def send(self) -> Callable[..., Any]:
        """Return a replacement of ``Session.send``."""
        real = session.Session.send

        async def send(of: session.Session, request: session.Request) -> session.Reply:
            last = self.begins(request.url.partition("?")[0].rpartition("/")[2])
            reply = await real(of, request)
            if last and self.kill is not None:
                self.kill.strike()
            return reply

        return send


class Work:
    """One task instance, with as many tries as it takes.

    :param folder: where it keeps its store.
    :param operator: makes the operator of a try, as parsing the DAG file does.
    :param context: further entries of Airflow's context.
    """

    serials = itertools.count()

    def __init__(self, folder: Path, operator: Callable[..., Any], **context: Any) -> None:
        self.run_id = f"run_{next(self.serials)}"
        self.folder = folder / self.run_id
        self.folder.mkdir()
        self.store = Store(self.folder / "store")
        self.operator, self.more = operator, context
        self.ti = self._new_try()

    def _new_try(self) -> TaskInstance:
        return TaskInstance(run_id=self.run_id, xcom_file=self.folder / f"xcoms_{uuid4()}")

    def next_try(self) -> None:
        """Begin another try, with an id and XComs of its own."""
        self.ti = self._new_try()

    @property
    def context(self) -> Any:
        return {"ti": self.ti, "task_state_store": self.store, **self.more}

    @property
    def exchanges(self) -> list[str]:
        """What the last child exchanged."""
        return (self.folder / "exchanges").read_text().splitlines()

    def start(self, kill: Kill | None = None, line: tuple[int, int] | None = None, **arguments: Any) -> int:
        """Fork a worker for the present try, and return its process id.

        :param kill: where it is killed.
        :param line: both ends of a pipe; it begins once the caller has closed the second one.
        :param arguments: of the operator.
        """
        log = self.folder / "exchanges"
        log.write_text("")
        pid = os.fork()
        if pid:
            return pid
        code = RAISED
        try:
            with (self.folder / "log").open("a") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                if line is not None:
                    os.close(line[1])
                    os.read(line[0], 1)
                code = self._child(Exchanges(kill, log), arguments)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)

    def _child(self, exchanges: Exchanges, arguments: dict[str, Any]) -> int:
        context = self.context
        store, ti = context["task_state_store"], context["ti"]
        with (
            mock.patch.object(session.Session, "send", exchanges.send()),
            mock.patch.object(store, "get", exchanges.call("get", store.get)),
            mock.patch.object(store, "set", exchanges.call("set", store.set)),
            mock.patch.object(ti, "xcom_push", exchanges.call("xcom", ti.xcom_push)),
        ):
            operator = self.operator(**arguments)
            signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())  # as Airflow's task runner does
            try:
                operator.execute(context)
            except TaskDeferred as deferred:
                _, kwargs = deferred.trigger.serialize()
                whole = self.folder / f"deferred_{os.getpid()}"
                whole.write_text(json.dumps(kwargs))
                whole.replace(self.folder / "deferred")  # another worker of this try may do the same
                return DEFERRED
        return 0

    def ran(self, kill: Kill | None = None, **arguments: Any) -> int:
        """Run a worker for the present try to its end, and return its exit code."""
        return ended(self.start(kill, **arguments))

    def log(self) -> str:
        """What its workers said."""
        return (self.folder / "log").read_text()

    def trigger(self) -> PandaFunctionTrigger:
        """Return the trigger that the last worker deferred with."""
        kwargs = json.loads((self.folder / "deferred").read_text())
        return PandaFunctionTrigger(**{**kwargs, "not_before": None})

    async def value(self, **arguments: Any) -> Any:
        """Wait as a triggerer does, and return what the task returns."""
        payload = (await anext(self.trigger().run())).payload
        event = json.loads(json.dumps(payload))
        operator = self.operator(**arguments)
        return await asyncio.to_thread(operator.execute_complete, self.context, event)


def ended(pid: int) -> int:
    """Wait for a child, and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


PYTHON = {"python": sys.executable}
"""Environment of jobs."""
