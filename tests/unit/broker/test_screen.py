"""Who gets a message, decided from its headers and size."""

from __future__ import annotations

import pytest

from airflow_provider_panda.broker.frames import Frame
from airflow_provider_panda.broker.screen import STATUS_LIMIT, Drop, screen_result, screen_status
from airflow_provider_panda.broker.status import StatusMessage, read_status

AWAITED = {b"afabcdkey": "waiter"}


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"MESSAGE\ninternal_id:afabcdkey\nchannel:airflow-panda", "waiter"),
        (b"MESSAGE\nchannel:x\ninternal_id:afabcdkey", "waiter"),
        (b"MESSAGE\ninternal_id:afabcdkez", Drop.NOT_AWAITED),
        (b"MESSAGE\ninternal_id:afabcdkey2", Drop.NOT_AWAITED),
        (b"MESSAGE\ninternal_id:\xff\xfe", Drop.NOT_AWAITED),
        (b"MESSAGE\ninternal_id:", Drop.NO_KEY),
        (b"MESSAGE\nxinternal_id:afabcdkey", Drop.NO_KEY),
        (b"MESSAGE", Drop.NO_KEY),
    ],
)
def test_results(head: bytes, expected: object) -> None:
    assert screen_result(Frame(head, b"", 0), AWAITED) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"msg_type": "task_status", "taskid": 7, "status": "running"}', "watch"),
        (b'{"taskid":"7"}', "watch"),
        (b'{"taskid": 8}', Drop.NOT_AWAITED),
        (b'{"taskid": 77}', Drop.NOT_AWAITED),
        (b'{"jobid": 7}', Drop.NO_KEY),
        (b'{"taskid": ' + b"9" * 5000 + b"}", Drop.NO_KEY),
        (b"\xff\xfe", Drop.NO_KEY),
        (None, Drop.TOO_LARGE),
        (b'{"taskid": 7}' + b" " * STATUS_LIMIT, Drop.TOO_LARGE),
    ],
)
def test_status(body: bytes | None, expected: object) -> None:
    size = 2_000_000 if body is None else len(body)
    assert screen_status(Frame(b"MESSAGE", body, size), {7: "watch"}) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            b'{"msg_type": "task_status", "taskid": 1, "status": "defined", "timestamp": 1795368856}',
            StatusMessage(1, None, "defined", 1795368856.0),
        ),
        (
            b'{"msg_type": "job_status", "taskid": 1, "jobid": 5, "status": "failed", "timestamp": "soon"}',
            StatusMessage(1, 5, "failed", None),
        ),
        (b'{"msg_type": "job_status", "taskid": 1, "status": "failed"}', None),
        (b'{"msg_type": "other", "taskid": 1, "status": "failed"}', None),
        (b'{"msg_type": "task_status", "taskid": true, "status": "failed"}', None),
        (b'{"msg_type": "task_status", "taskid": 1, "status": 3}', None),
        (b'{"msg_type": ["task_status"], "taskid": 1, "status": "x"}', None),
        (b"[1]", None),
        (b"[" * 50_000, None),
        (b"\xff\xfe\xfd", None),
        (b"", None),
    ],
)
def test_reading_status(body: bytes, expected: StatusMessage | None) -> None:
    assert read_status(body) == expected


# As captured from a PanDA server 1.0.4.
CAPTURED = [
    b'{"msg_type": "task_status", "taskid": 1, "status": "defined", "timestamp": 1795368856}',
    b'{"computingsite": "LOCAL_TEST", "inputs": ["pseudo_lfn"], "piloterrorcode": 0, "piloterrordiag": "NULL", '
    b'"msg_type": "job_status", "jobid": 1, "taskid": 1, "status": "activated", "timestamp": 1795368860}',
    b'{"computingsite": "LOCAL_TEST", "inputs": null, "msg_type": "job_status", "jobid": 1, "taskid": 1, '
    b'"status": "starting", "timestamp": 1795368973}',
]


def test_captured_status_messages_are_read() -> None:
    read = [read_status(body) for body in CAPTURED]
    assert [(each.task_id, each.job_id, each.status) for each in read if each] == [
        (1, None, "defined"),
        (1, 1, "activated"),
        (1, 1, "starting"),
    ]
    for body in CAPTURED:
        assert screen_status(Frame(b"MESSAGE", body, len(body)), {1: "watch"}) == "watch"
