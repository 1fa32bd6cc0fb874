"""The result envelope: what a job reports, how it is signed, and how it is read back.

Shipped to the worker node with the runner: standard library only, Python 3.9-3.13.

An envelope travels as two strings, ``signed`` (JSON text of the report) and ``signature`` (HMAC-SHA256 over the
exact bytes of that text). Nothing of ``signed`` is decoded before the signature is verified, and no canonical form
of JSON has to be agreed on. The body of the message around it is a superset of iDDS's AsyncResult body
(idds 2.6.21, idds.iworkflow.asyncresult), so that iDDS's own tools can read and store it.
"""

from __future__ import annotations

import json
from typing import Any, Dict, Optional, Tuple

VERSION = 1
BODY_KEY = "airflow_panda"
"""Name of our object in a result body and in ``jobReport.json``."""

INLINE_LIMIT = 256 * 1024
"""Largest encoded value, in bytes, that travels inside an envelope."""

BODY_LIMIT = 1024 * 1024
"""Largest body, in bytes, that a reader looks at: what PanDA keeps of a job report (facts/panda.md section 10)."""

OUTPUT_LIMIT = 4 * 1024
"""Largest value, in bytes, that is repeated as iDDS's ``ret[1]`` for iDDS's own tools."""

RETURNED = "returned"
"""The function returned, and its value is in the envelope (or referred to by it)."""
RAISED = "raised"
"""The function raised; the exception is in the envelope. Final unless the call has ``retry_on_exception``."""
REFUSED = "refused"
"""The runner could not run the function, or could not encode its value, and would not on another node. Final."""
UNFIT = "unfit"
"""This node cannot run the function (module missing, Python too old); another attempt may land on a better one."""
STATUSES = (RETURNED, RAISED, REFUSED, UNFIT)


class BadSignature(ValueError):  # noqa: N818
    """The signature is missing or wrong."""


class BadEnvelope(ValueError):  # noqa: N818
    """The text is no envelope of ours."""


def derive_key(instance_secret: str, task_key: str) -> bytes:
    """Return the signing key of one task, derived from the secret of the Airflow instance.

    :raises ValueError: the secret is empty.
    """
    import hashlib
    import hmac

    if not instance_secret:
        raise ValueError("the instance secret is empty: anybody could derive the keys of its tasks")
    text = "airflow-panda task key v1:" + task_key
    return hmac.new(instance_secret.encode(), text.encode(), hashlib.sha256).digest()


def sign(report: Dict[str, Any], key: bytes) -> Dict[str, Any]:
    """Return ``{"version", "signed", "signature"}`` of a report.

    ``report`` holds: ``task_key`` (str), ``job`` (int), ``attempt`` (int), ``status`` (one of STATUSES),
    ``encoding`` ("json", "cloudpickle" or "reference"), ``payload`` (encoded value or None), ``exception``
    (``{"type", "message", "traceback"}`` or None), ``start``, ``end`` (Unix times in seconds), ``host``, ``site``,
    ``panda_id`` (int or None), ``python`` (version of the interpreter).
    """
    import hashlib
    import hmac

    signed = json.dumps(report, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return {
        "version": VERSION,
        "signed": signed,
        "signature": hmac.new(key, signed.encode(), hashlib.sha256).hexdigest(),
    }


def verify(envelope: Any, key: bytes, task_key: str) -> Dict[str, Any]:
    """Return the report of an envelope after checking version, signature and task key, in this order.

    :raises BadEnvelope: not an envelope, an unknown version, or one of another task.
    :raises BadSignature: the signature is missing or wrong; ``signed`` was not decoded.
    """
    import hashlib
    import hmac

    if not isinstance(envelope, dict):
        raise BadEnvelope("no %r object" % BODY_KEY)
    version = envelope.get("version")
    if type(version) is not int or version != VERSION:
        raise BadEnvelope("version %.20r is not %d" % (version if type(version) is int else type(version), VERSION))
    signed, signature = envelope.get("signed"), envelope.get("signature")
    if not isinstance(signed, str) or not isinstance(signature, str):
        raise BadSignature("signed text or signature is missing")
    expected = hmac.new(key, signed.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass")):
        raise BadSignature("the signature does not match")
    try:
        report = json.loads(signed)
    except (ValueError, RecursionError) as error:
        raise BadEnvelope("the signed text is no JSON: %s" % error) from None
    if not isinstance(report, dict) or report.get("task_key") != task_key:
        raise BadEnvelope("the envelope is of another task")
    if (
        report.get("status") not in STATUSES
        or type(report.get("job")) is not int
        or type(report.get("attempt")) is not int
    ):
        raise BadEnvelope("status, job or attempt is missing")
    return report


def message(
    report: Dict[str, Any],
    envelope: Dict[str, Any],
    *,
    name: str,
    request_id: Optional[int] = None,
    transform_id: Optional[int] = None,
) -> Tuple[Dict[str, str], str]:
    """Return the STOMP headers and the body that carry an envelope.

    Header and body fields follow idds 2.6.21, AsyncResult (samples/idds/broker_messages.json). In direct mode
    ``channel`` is ``airflow-panda``, since iDDS's receiver fails on messages without its request_id.
    """
    through_idds = request_id is not None
    exception = report.get("exception")
    error = None if exception is None else "%s: %s" % (exception["type"], exception["message"])
    output = report.get("payload")
    if output is not None and (
        report.get("encoding") != "json" or len(json.dumps(output, separators=(",", ":"))) > OUTPUT_LIMIT
    ):
        output = None
    body = {
        "ret": [
            report["status"] == RETURNED,
            output,
            error,
            {"start_time": report.get("start"), "end_time": report.get("end")},
        ],
        "name": name,
        "key": str(report["job"]),
        "internal_id": report["task_key"],
        "type": "iwork",
        "request_id": request_id,
        "transform_id": transform_id,
        BODY_KEY: envelope,
    }
    headers = {
        "channel": "asyncresult" if through_idds else "airflow-panda",
        "type": "iwork",
        "internal_id": report["task_key"],
        "request_id": str(request_id) if through_idds else "",
        "transform_id": str(transform_id) if transform_id is not None else "",
        "persistent": "true",
        "content-type": "application/json",
    }
    return {k: v for k, v in headers.items() if v}, json.dumps(body, separators=(",", ":"))
