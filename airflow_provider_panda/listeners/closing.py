"""Closes the iDDS requests of DAG runs that have ended, in one background thread of bounded memory.

What does not get through here (iDDS is down for long, the process is killed) stays open at iDDS and harms nothing;
``airflow panda reap`` is to close it.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from airflow_provider_panda.exceptions import PandaProviderError

log = logging.getLogger(__name__)

CAPACITY: Final = 1000
"""Ended runs that wait to be looked at; further ones are left to ``reap``."""

PAUSES: Final = (2.0, 15.0, 60.0)
"""Seconds after which a run is tried again."""

AT_EXIT: Final = 10.0
"""Seconds that the end of the process is held up for runs that were just handed over."""


class Closer:
    """A queue of ended runs and the thread that works on it, started on first use.

    :param connections_of: returns the PanDA connections through which tasks of a run went to iDDS.
    :param close: closes the requests of a run: connection, DAG, run.
    """

    def __init__(
        self, connections_of: Callable[[str, str], Iterable[str]], close: Callable[[str, str, str], None]
    ) -> None:
        self._connections_of = connections_of
        self._close = close
        self._ended: queue.Queue[tuple[str, str]] = queue.Queue(CAPACITY)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def hand_over(self, dag_id: str, run_id: str) -> None:
        """Take a run that has ended; returns at once."""
        try:
            self._ended.put_nowait((dag_id, run_id))
        except queue.Full:
            log.warning("too many runs ended at once; the iDDS request of %s, %s stays open", dag_id, run_id)
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="panda-request-closer", daemon=True)
                self._thread.start()
                atexit.register(self.drain)

    def drain(self, patience: float = AT_EXIT) -> bool:
        """Wait until all runs that were handed over are done, and return whether they are.

        :param patience: longest wait, in seconds.
        """
        self._stopping.set()  # no pauses any more
        until = time.monotonic() + patience
        with self._ended.all_tasks_done:
            while self._ended.unfinished_tasks:
                if not self._ended.all_tasks_done.wait(max(0.0, until - time.monotonic())):
                    return False
        return True

    def _work(self) -> None:
        while True:
            dag_id, run_id = self._ended.get()
            try:
                for conn_id in self._connections_of(dag_id, run_id):
                    self._close_patiently(conn_id, dag_id, run_id)
            except Exception:
                log.exception("the iDDS request of %s, %s could not be looked for", dag_id, run_id)
            finally:
                self._ended.task_done()

    def _close_patiently(self, conn_id: str, dag_id: str, run_id: str) -> None:
        for pause in (*PAUSES, None):
            try:
                self._close(conn_id, dag_id, run_id)
                return
            except PandaProviderError as error:
                if pause is None or self._stopping.is_set():
                    log.warning("the iDDS request of %s, %s stays open: %s", dag_id, run_id, error)
                    return
                log.info("the iDDS request of %s, %s is not closed yet: %s", dag_id, run_id, error)
            self._stopping.wait(pause)


def connections_of(dag_id: str, run_id: str) -> list[str]:
    """Return the connections through which tasks of a run went to iDDS, as the operators left them in XCom."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from airflow_provider_panda.triggers.ids import CONNECTION_KEY

    with create_session() as session:
        rows = session.scalars(
            select(XComModel).where(
                XComModel.dag_id == dag_id, XComModel.run_id == run_id, XComModel.key == CONNECTION_KEY
            )
        ).all()
        return sorted({str(XComModel.deserialize_value(row)) for row in rows})


def close(conn_id: str, dag_id: str, run_id: str) -> None:
    """Close the open requests of a run.

    :raises PandaProviderError: the connection is wrong, or iDDS cannot be asked.
    """
    from airflow_provider_panda import configuration
    from airflow_provider_panda.grid.idds import DagRun
    from airflow_provider_panda.hooks.panda import PandaHook

    hook = PandaHook(conn_id)
    instance = configuration.instance(hook.get_conn().instance_secret, conn_id=conn_id)
    closed = hook.idds_grid().close_run(DagRun(instance=instance, dag_id=dag_id, run_id=run_id))
    if closed:
        log.info("run %s of %s has ended: closed iDDS request(s) %s", run_id, dag_id, ", ".join(map(str, closed)))


_closer: Closer | None = None
_lock = threading.Lock()


def closer() -> Closer:
    """Return this process's closer."""
    global _closer
    with _lock:
        if _closer is None:
            _closer = Closer(connections_of, close)
        return _closer


def _after_fork() -> None:
    """Forget the parent's thread, which a forked child does not have."""
    global _closer, _lock
    _closer, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
