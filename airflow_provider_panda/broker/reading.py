"""Temporary: until payload.result exists."""

from __future__ import annotations

import json
from dataclasses import dataclass

from airflow_provider_panda.exceptions import EnvelopeError, SignatureError
from airflow_provider_panda.payload import envelope


@dataclass(frozen=True)
class JobResult:
    task_key: str
    job: int
    attempt: int
    status: str
    payload: object


def read_body(body: bytes, key: bytes, task_key: str) -> JobResult:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise EnvelopeError(f"no JSON: {error}") from None
    try:
        report = envelope.verify(content.get(envelope.BODY_KEY) if isinstance(content, dict) else None, key, task_key)
    except envelope.BadSignature as error:
        raise SignatureError(str(error)) from None
    except envelope.BadEnvelope as error:
        raise EnvelopeError(str(error)) from None
    return JobResult(task_key, report["job"], report["attempt"], report["status"], report.get("payload"))
