"""When a call to PanDA is made again, and after how long: the one policy of the grid."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from airflow_provider_panda.exceptions import GridError, GridServerError, GridUnreachableError

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Bounded attempts with growing, jittered pauses.

    :param attempts: calls in all, at least 1.
    :param first: upper bound of the first pause, in seconds; it doubles each time.
    :param longest: upper bound of any pause, in seconds.
    """

    attempts: int = 4
    first: float = 0.5
    longest: float = 8.0

    def pauses(self, draw: Callable[[], float] = random.random) -> Iterator[float]:
        """Yield the pauses between the attempts, in seconds: half of each bound is fixed, half is drawn.

        >>> list(RetryPolicy(attempts=4, first=1, longest=3).pauses(lambda: 1.0))
        [1.0, 2.0, 3.0]
        """
        for number in range(self.attempts - 1):
            bound = min(self.first * 2**number, self.longest)
            yield bound / 2 + bound / 2 * draw()


def passes_by_itself(error: Exception | None) -> bool:
    """Return whether the same call may succeed a little later."""
    return isinstance(error, (GridUnreachableError, GridServerError))


def again(
    policy: RetryPolicy,
    what: str,
    action: Callable[[], T],
    *,
    worth: Callable[[Exception], bool] = passes_by_itself,
    pause: Callable[[float], object] = time.sleep,
) -> T:
    """Call ``action``, again after a pause while its error is worth it, and return its value.

    :param policy: how often and how long.
    :param what: the call in words, for the log.
    :param action: a call that does no harm when it is made twice.
    :param worth: which errors are worth another attempt.
    :param pause: waits for the seconds given.
    :raises GridError: the error of the last attempt.
    """
    for seconds in policy.pauses():
        try:
            return action()
        except GridError as error:
            if not worth(error):
                raise
            log.info("%s failed and is tried again in %.1f s: %s", what, seconds, error)
        pause(seconds)
    return action()
