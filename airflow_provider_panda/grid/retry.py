"""When a call to PanDA or iDDS is made again, and after how long: the one policy of the grid.

Which calls may be made again at all, and why, is told in docs/reliability.md, section "PanDA and iDDS".
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from airflow_provider_panda.exceptions import GridError, GridServerError, GridUnreachableError

log = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_ASKED: Final = 60.0
"""Most seconds of a server's Retry-After that are waited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Bounded attempts with growing, jittered pauses.

    :param attempts: calls in all, at least 1.
    :param first: upper bound of the first pause, in seconds; it doubles each time.
    :param longest: upper bound of any pause, in seconds.
    :param patience: seconds from the first attempt after which no further one begins; None: only ``attempts`` counts.
    """

    attempts: int = 4
    first: float = 0.5
    longest: float = 8.0
    patience: float | None = None

    def pauses(self, draw: Callable[[], float] = random.random) -> Iterator[float]:
        """Yield the pauses between the attempts, in seconds: half of each bound is fixed, half is drawn.

        >>> list(RetryPolicy(attempts=4, first=1, longest=3).pauses(lambda: 1.0))
        [1.0, 2.0, 3.0]
        """
        for number in range(self.attempts - 1):
            bound = min(self.first * 2**number, self.longest)
            yield bound / 2 + bound / 2 * draw()


PATIENT: Final = RetryPolicy(attempts=40, first=1.0, longest=15.0, patience=180.0)
"""Of a worker: a restart of PanDA, iDDS or a proxy before them fails no task, and a wrong address fails it in minutes.

An attempt that begins last may take the deadline of a call (connection field timeout) on top.
"""

BRIEF: Final = RetryPolicy()
"""Of somebody at a terminal: some seconds."""


def passes_by_itself(error: Exception | None) -> bool:
    """Return whether the same call may succeed a little later."""
    return isinstance(error, (GridUnreachableError, GridServerError))


def asked_pause(error: Exception | None) -> float:
    """Return the seconds that a server asks to be left alone (Retry-After), within bounds; 0 if it does not."""
    asked = error.retry_after if isinstance(error, GridServerError) else None
    return 0.0 if asked is None else min(max(asked, 0.0), LONGEST_ASKED)


def again(
    policy: RetryPolicy,
    what: str,
    action: Callable[[], T],
    *,
    worth: Callable[[Exception], bool] = passes_by_itself,
    pause: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Call ``action``, again after a pause while its error is worth it, and return its value.

    :param policy: how often and how long.
    :param what: the call in words, for the log.
    :param action: a call that does no harm when it is made twice.
    :param worth: which errors are worth another attempt.
    :param pause: waits for the seconds given.
    :param clock: seconds of a clock that is never set.
    :raises GridError: the error of the last attempt.
    """
    began = clock()
    for number, drawn in enumerate(policy.pauses(), start=1):
        try:
            return action()
        except GridError as error:
            seconds = max(drawn, asked_pause(error))
            waited = clock() - began
            if not worth(error):
                raise
            if policy.patience is not None and waited + seconds > policy.patience:
                log.warning("%s failed in all of %d attempts within %.0f s", what, number, waited)
                raise
            log.info("%s failed and is tried again in %.1f s: %s", what, seconds, error)
        pause(seconds)
    return action()
