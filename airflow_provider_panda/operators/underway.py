"""A submission that nobody but this worker knows of yet, and how it ends if Airflow ends the worker.

Airflow calls ``on_kill`` in a signal handler, goes on with ``execute`` afterwards, and kills the process 5 s later
(airflow-sdk 1.3.2, task_runner and supervisor). So the handler makes no call of Airflow's, does its work in a thread,
which no lock that the interrupted code holds can stop for good, and leaves what is then still to do to ``execute``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_panda.exceptions import GridError
from airflow_provider_panda.operators.way import Submission

log = logging.getLogger(__name__)

PATIENCE: Final = 2.5
"""Seconds of the handler: half of what Airflow grants, for the interrupted call may bring the id in the other half."""

LOOK_EVERY: Final = 0.3
"""Seconds between looks for a task whose id is not known."""


class Underway:
    """From before a submission until its ids are left for others.

    :param key: task key, for the log.
    :param find: returns what is submitted, if the grid lists it.
    :param kill: kills it.
    :param tell: leaves word that it was ended, where calls of Airflow's are allowed.
    :param patience: seconds that :meth:`end` takes at most.
    """

    def __init__(
        self,
        key: str,
        *,
        find: Callable[[], Submission | None],
        kill: Callable[[Submission], object],
        tell: Callable[[Submission | None], None],
        patience: float = PATIENCE,
    ) -> None:
        self._key, self._find, self._kill, self._tell, self._patience = key, find, kill, tell, patience
        self._sent = self._ended = self._killed = False
        self._submission: Submission | None = None

    def sending(self) -> None:
        """Say that the next call may submit.

        :raises AirflowException: Airflow has ended this worker.
        """
        self.go_on()
        self._sent = True

    def taken(self, submission: Submission) -> None:
        """Say what was submitted.

        :raises AirflowException: Airflow has ended this worker; what was submitted is killed.
        """
        self._submission = submission
        self.go_on()

    def go_on(self) -> None:
        """Return if this worker may go on.

        :raises AirflowException: Airflow has ended it; what was submitted is killed.
        """
        if not self._ended:
            return
        self._tell(self._submission)
        if self._submission is not None and not self._killed:
            self._kill_now(self._submission)
        raise AirflowException(f"{self._key}: Airflow ended this worker during the submission")

    def give_up(self) -> None:
        """Say that Airflow ended this worker before there was anything to end."""
        self._ended = True

    def end(self) -> None:
        """Kill what was submitted; from ``on_kill``."""
        self._ended = True
        if not self._sent:
            return
        thread = threading.Thread(target=self._find_and_kill, name=f"end {self._key}", daemon=True)
        thread.start()
        thread.join(self._patience)

    def _find_and_kill(self) -> None:
        until = time.monotonic() + self._patience
        try:
            while (submission := self._submission or self._find()) is None:
                if time.monotonic() > until:
                    log.warning("%s: is not listed yet; killed if the reply to its submission comes in time", self._key)
                    return
                time.sleep(LOOK_EVERY)
        except GridError as error:
            log.warning("%s: could not be looked for: %s. `airflow panda reap` kills it", self._key, error)
            return
        self._kill_now(submission)

    def _kill_now(self, submission: Submission) -> None:
        log.info("%s: killing %s", self._key, submission)
        try:
            self._kill(submission)
            self._killed = True
        except GridError as error:
            log.warning(
                "%s: %s could not be killed: %s. A further try or `airflow panda reap` does",
                self._key,
                submission,
                error,
            )
