"""Values on their way through XCom: what JSON carries stays as it is, the rest travels in a carrier.

Airflow's XCom turns dictionary keys into strings, knows no bytes or complex, and databases refuse NaN in JSON
(facts/airflow.md section 3). A :class:`GridValue` holds such a part as tagged JSON; whoever reads the XCom gets the
value itself, for Airflow calls ``deserialize`` and passes on what it returns.
"""

from __future__ import annotations

import json
import math
from typing import Any, ClassVar

from airflow_provider_panda.payload import values
from airflow_provider_panda.payload.result import JobFailure


class GridValue:
    """A value that plain JSON cannot carry, as tagged JSON.

    :param value: the value.
    :raises values.UnsupportedValue: the value is none of the types that travel.
    """

    __version__: ClassVar[int] = 1

    def __init__(self, value: Any) -> None:
        self.encoded = json.dumps(values.encode(value), separators=(",", ":"), allow_nan=False)

    def serialize(self) -> str:
        """Return the tagged JSON text (called by Airflow's XCom serialisation)."""
        return self.encoded

    @staticmethod
    def deserialize(data: str, version: int) -> Any:
        """Return the value itself (called by Airflow's XCom deserialisation)."""
        if version > GridValue.__version__:
            raise TypeError(f"GridValue of version {version} was written by a newer provider; upgrade this one")
        return values.decode(json.loads(data))


def to_xcom(value: Any) -> Any:
    """Return ``value`` with every part that XCom's JSON would change or refuse put into a :class:`GridValue`.

    Lists and dictionaries with string keys stay what they are, so that ``.expand`` and ``multiple_outputs`` work.
    """
    if value is None or type(value) in (bool, int, str) or isinstance(value, JobFailure):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else GridValue(value)
    if type(value) is list:
        return [to_xcom(item) for item in value]
    if type(value) is dict and all(type(key) is str and not key.startswith("__") for key in value):
        return {key: to_xcom(item) for key, item in value.items()}
    return GridValue(value)
