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
        """Wait, and fire once with the time of that."""
        await asyncio.sleep(self.moment - time.time())
        yield TriggerEvent({"fired": time.time()})


class BareDeferrable(BaseOperator):
    """Defers, and returns a value.

    :param wait: seconds from the deferral until it is resumed.
    :param stamp: whether the value is the times of each stop, and not just a number.
    """

    def __init__(self, *, wait: float, stamp: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.wait, self.stamp = wait, stamp

    def execute(self, context: Any) -> None:
        """Defer."""
        began = time.time()
        self.defer(trigger=TimerTrigger(began + self.wait), method_name="execute_complete", kwargs={"began": began})

    def execute_complete(self, context: Any, event: dict[str, Any], began: float) -> Any:
        """Return a value."""
        return {"began": began, **event, "resumed": time.time()} if self.stamp else 1
