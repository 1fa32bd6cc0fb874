"""What to do with a message, decided from its headers and size alone: nothing of its body is parsed here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeVar

from airflow_provider_panda.broker.frames import Frame, header

RESULTS: Final = b"results"
"""Id of the subscription to the result destination."""
STATUS: Final = b"status"
"""Id of the subscription to the status destination."""

STATUS_LIMIT: Final = 64 * 1024
"""Largest status message in bytes; PanDA's are below 1 KiB (samples/panda/broker_messages.json)."""

_TASK_ID: Final = re.compile(rb'"taskid"\s*:\s*"?(\d{1,18})\b')

T = TypeVar("T")


class Drop(Enum):
    """Why a message was dropped."""

    NO_KEY = "no_key"
    """It has no ``internal_id`` header, or a status message no task id: not made by a runner of ours or by PanDA."""
    NOT_AWAITED = "not_awaited"
    """Nobody waits for its task here: it is another process's, or it ended. Normal, never logged one by one."""
    TOO_LARGE = "too_large"
    """Its body is larger than a reader looks at; it was skipped while it arrived."""
    MALFORMED = "malformed"
    """The body is no envelope: no JSON, another version, the envelope of another task."""
    BAD_SIGNATURE = "bad_signature"
    """The signature is missing or wrong; nothing that it covers was decoded."""
    UNREADABLE = "unreadable"
    """Reading it failed in a way that nobody foresaw; the log has the traceback."""


def screen_result(frame: Frame, awaited: Mapping[bytes, T]) -> T | Drop:
    """Return who awaits a message of the result destination, or why it is dropped.

    :param frame: a MESSAGE frame.
    :param awaited: task keys that are awaited in this process, and by whom.
    """
    key = header(frame.head, b"internal_id")
    if not key:
        return Drop.NO_KEY
    waiter = awaited.get(key)
    return Drop.NOT_AWAITED if waiter is None else waiter


def screen_status(frame: Frame, watched: Mapping[int, T]) -> T | Drop:
    """Return who watches the task of a message of PanDA's status destination, or why it is dropped.

    The destination carries the messages of a whole PanDA server, so the task id is found without parsing JSON.

    :param frame: a MESSAGE frame.
    :param watched: jediTaskIDs that are watched in this process, and by whom.
    """
    if frame.body is None or frame.size > STATUS_LIMIT:
        return Drop.TOO_LARGE
    found = _TASK_ID.search(frame.body)
    if found is None:
        return Drop.NO_KEY
    watcher = watched.get(int(found[1]))
    return Drop.NOT_AWAITED if watcher is None else watcher
