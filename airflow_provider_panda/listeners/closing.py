"""Closes the iDDS requests of DAG runs that have ended, in one background thread of bounded memory.

Airflow is done with a run before iDDS is with its works, so a request is looked at until it can be closed; and iDDS
drops some commands, so it is looked at until it is closed. What does not get through here (iDDS is down for long, the
process is killed) stays open at iDDS and harms nothing; iDDS itself ends it in time.
"""

from __future__ import annotations

import atexit
import heapq
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from airflow_provider_panda.exceptions import PandaProviderError

log = logging.getLogger(__name__)

CAPACITY: Final = 1000
"""Ended runs that wait to be looked at; further ones are left to iDDS."""

FIRST_PAUSE: Final = 3.0
LONGEST_PAUSE: Final = 60.0
"""Seconds between two looks at a run: each pause is twice the one before."""

PATIENCE: Final = 2 * 3600.0
"""Seconds after which a run is given up."""

AT_EXIT: Final = 10.0
"""Seconds that the end of the process is held up for runs that were just handed over."""


@dataclass(order=True)
class _Ended:
    """A run that has ended.

    :param due: when it is looked at next, on the monotonic clock.
    :param generation: which start of it ended: a later one has a request of its own.
    """

    due: float
    pause: float = field(compare=False)
    since: float = field(compare=False)
    dag_id: str = field(compare=False)
    run_id: str = field(compare=False)
    generation: int = field(compare=False)
    conn_ids: tuple[str, ...] | None = field(compare=False, default=None)


class Closer:
    """The runs that have ended and the thread that looks at them, started on first use.

    :param connections_of: returns the PanDA connections through which tasks of a run went to iDDS.
    :param close: closes the requests of a run (connection, DAG, run, generation); returns whether none is
        open any more.
    :param first_pause: seconds between the first two looks at a run.
    """

    def __init__(
        self,
        connections_of: Callable[[str, str], Iterable[str]],
        close: Callable[[str, str, str, int], bool],
        *,
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        self._connections_of = connections_of
        self._close = close
        self._first_pause = first_pause
        self._ended: list[_Ended] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = False

    def hand_over(self, dag_id: str, run_id: str, generation: int) -> None:
        """Take a run that has ended; returns at once."""
        now = time.monotonic()
        with self._changed:
            if len(self._ended) >= CAPACITY:
                log.warning("too many runs ended at once; the iDDS request of %s, %s stays open", dag_id, run_id)
                return
            heapq.heappush(self._ended, _Ended(now, self._first_pause, now, dag_id, run_id, generation))
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="panda-request-closer", daemon=True)
                self._thread.start()
                atexit.register(self.drain)

    def drain(self, patience: float = AT_EXIT) -> bool:
        """Wait until nothing is left to do, and return whether that is so.

        :param patience: longest wait, in seconds.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._ended and not self._busy, patience)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._ended or (remaining := self._ended[0].due - time.monotonic()) > 0:
                    self._changed.wait(remaining if self._ended else None)
                ended = heapq.heappop(self._ended)
                self._busy = True
            if not self._is_done(ended) and time.monotonic() - ended.since < PATIENCE:
                ended.due = time.monotonic() + ended.pause
                ended.pause = min(2 * ended.pause, LONGEST_PAUSE)
                with self._changed:
                    heapq.heappush(self._ended, ended)

    def _is_done(self, ended: _Ended) -> bool:
        """Look at a run; return whether there is nothing more to do for it."""
        try:
            if ended.conn_ids is None:
                ended.conn_ids = tuple(self._connections_of(ended.dag_id, ended.run_id))
            open_ones = [
                conn_id
                for conn_id in ended.conn_ids
                if not self._close(conn_id, ended.dag_id, ended.run_id, ended.generation)
            ]
            return not open_ones
        except PandaProviderError as error:
            log.info("the iDDS request of %s, %s is not closed yet: %s", ended.dag_id, ended.run_id, error)
            return False
        except Exception:
            log.exception("the iDDS request of %s, %s could not be looked for", ended.dag_id, ended.run_id)
            return True


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


def close(conn_id: str, dag_id: str, run_id: str, generation: int) -> bool:
    """Have the requests of a run closed whose works have ended; return whether none was open any more.

    :raises PandaProviderError: the connection is wrong, or iDDS cannot be asked.
    """
    from airflow_provider_panda import configuration
    from airflow_provider_panda.grid.idds.runs import DagRun
    from airflow_provider_panda.hooks.panda import PandaHook

    hook = PandaHook(conn_id)
    instance = configuration.instance(hook.get_conn().instance_secret, conn_id=conn_id)
    run = DagRun(instance=instance, dag_id=dag_id, run_id=run_id, generation=generation)
    closing = hook.idds_grid().close_run(run)
    if closing.closed:
        log.info("run %s of %s has ended: asked iDDS to close request(s) %s", run_id, dag_id, closing.closed)
    return closing.over


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
