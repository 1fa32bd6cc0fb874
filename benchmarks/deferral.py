"""What a deferral costs in Airflow itself: an operator that does nothing but wait by a timer, and return a value.

Imported by DAG files of benchmarks, by Airflow's workers and by its triggerer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent


class TimerTrigger(BaseTrigger):
    """Fires at a moment.

    :param moment: Unix time in seconds.
    """

    def __init__(self, moment: float) -> None:
        super().__init__()
        self.moment = moment

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what is needed to make this trigger again in a triggerer."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {"moment": self.moment}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and fire once."""
        await asyncio.sleep(self.moment - time.time())
        yield TriggerEvent(1)


class BareDeferrable(BaseOperator):
    """Defers, and returns a number.

    :param wait: seconds from the deferral until it is resumed.
    """

    def __init__(self, *, wait: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.wait = wait

    def execute(self, context: Any) -> None:
        """Defer."""
        self.defer(trigger=TimerTrigger(time.time() + self.wait), method_name="execute_complete")

    def execute_complete(self, context: Any, event: Any) -> int:
        """Return a number."""
        return 1
