"""Reads result bodies on Airflow's side: checks size, signature and task, and decodes the value only then."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from airflow_provider_panda.exceptions import EnvelopeError, SignatureError, ValueDecodeError

from . import envelope, values


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteException:
    """An exception of a worker node.

    :param type: name of its class, with module.
    :param message: its text.
    :param traceback: full traceback text, without the runner's frames; empty for reasons of the runner's own.
    """

    type: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What one attempt of a job reported, its signature verified and its value still encoded.

    :param job: index of the job in the call.
    :param attempt: attempt of the job.
    :param status: one of ``envelope.STATUSES``.
    :param encoding: "json", "cloudpickle" or "reference".
    :param payload: the encoded value.
    :param exception: what went wrong, or None.
    :param start: when the function began, Unix time in seconds.
    :param end: when it ended.
    :param host: worker node.
    :param site: queue or site name, if the node said it.
    :param panda_id: PandaID, or None.
    :param python: version of the node's Python.
    :param envelope: the verified envelope, as it came.
    """

    job: int
    attempt: int
    status: str
    encoding: str
    payload: Any
    exception: RemoteException | None
    start: float | None
    end: float | None
    host: str | None
    site: str | None
    panda_id: int | None
    python: str
    envelope: Mapping[str, Any]

    @property
    def returned(self) -> bool:
        """Whether the function returned a value."""
        return self.status == envelope.RETURNED


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailure:
    """A failed element in the list of results, for ``on_job_error="collect"``.

    :param job: index of the job in the call.
    :param attempt: its last attempt.
    :param type: name of the exception's class, or of the reason.
    :param message: one text for people.
    :param traceback: traceback of the worker node, if the function raised.
    :param host: worker node, when known.
    :param site: queue, when known.
    :param panda_id: PandaID, when known.
    """

    __version__: ClassVar[int] = 1

    job: int
    attempt: int
    type: str
    message: str
    traceback: str = ""
    host: str | None = None
    site: str | None = None
    panda_id: int | None = None

    def serialize(self) -> dict[str, Any]:
        """Return the fields, for Airflow's XCom."""
        return asdict(self)

    @staticmethod
    def deserialize(data: dict[str, Any], version: int) -> JobFailure:
        """Return the failure of :meth:`serialize`'s fields."""
        if version > JobFailure.__version__:
            raise TypeError(f"version {version} of JobFailure is newer than {JobFailure.__version__}")
        return JobFailure(**data)

    @classmethod
    def of(cls, result: JobResult) -> JobFailure:
        """Return the failure that a result reports."""
        error = result.exception
        return cls(
            job=result.job,
            attempt=result.attempt,
            type=error.type if error else result.status,
            message=error.message if error else "",
            traceback=error.traceback if error else "",
            host=result.host,
            site=result.site,
            panda_id=result.panda_id,
        )


def read_body(body: str | bytes | Mapping[str, Any], *, key: bytes, task_key: str) -> JobResult:
    """Return the result in a message body or a job report, after checking size, version, signature and task.

    :param body: text of the body, or the decoded object.
    :param key: signing key of the task (:func:`..envelope.derive_key`).
    :param task_key: key of the task it must be of.
    :raises EnvelopeError: no envelope of ours, too large, or of another task.
    :raises SignatureError: the signature is missing or wrong.
    """
    if isinstance(body, (str, bytes)):
        if len(body) > envelope.BODY_LIMIT:
            raise EnvelopeError(f"a body of {len(body)} bytes is over the limit of {envelope.BODY_LIMIT}")
        try:
            # Of bytes json.loads guesses the encoding, and would import the codec that a sender chooses.
            body = json.loads(body if isinstance(body, str) else body.decode())
        except (ValueError, RecursionError) as error:
            raise EnvelopeError(f"the body is no JSON: {error}") from None
    if not isinstance(body, Mapping):
        raise EnvelopeError("the body is no JSON object")
    found = body.get(envelope.BODY_KEY)
    if not isinstance(found, Mapping):
        raise EnvelopeError(f"the body has no {envelope.BODY_KEY!r} object")
    signed = found.get("signed")
    if isinstance(signed, str) and len(signed) > envelope.BODY_LIMIT:
        raise EnvelopeError(f"an envelope of more than {envelope.BODY_LIMIT} bytes is over the limit")
    try:
        report = envelope.verify(found, key, task_key)
    except envelope.BadSignature as error:
        raise SignatureError(str(error)) from None
    except envelope.BadEnvelope as error:
        raise EnvelopeError(str(error)) from None
    return _result(report, found)


def _result(report: Mapping[str, Any], found: Mapping[str, Any]) -> JobResult:
    error = report.get("exception")
    if report["job"] < 0 or report["attempt"] < 0:
        raise EnvelopeError("job or attempt is negative")
    exception = None
    if isinstance(error, Mapping):
        exception = RemoteException(
            type=str(error.get("type")), message=str(error.get("message")), traceback=str(error.get("traceback") or "")
        )
    elif report["status"] != envelope.RETURNED:
        raise EnvelopeError(f"status {report['status']} without an exception")
    return JobResult(
        job=report["job"],
        attempt=report["attempt"],
        status=report["status"],
        encoding=str(report.get("encoding")),
        payload=report.get("payload"),
        exception=exception,
        start=_number(report.get("start")),
        end=_number(report.get("end")),
        host=_text(report.get("host")),
        site=_text(report.get("site")),
        panda_id=report["panda_id"] if type(report.get("panda_id")) is int else None,
        python=str(report.get("python")),
        envelope={name: found[name] for name in ("version", "signed", "signature")},
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        raise EnvelopeError("a time is no time") from None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def decode_value(result: JobResult, *, allow_pickle: bool = False) -> Any:
    """Return the value of a result.

    :param allow_pickle: whether a cloudpickle value may be unpickled; it was asked for with ``value_format``.
    :raises ValueDecodeError: it cannot be rebuilt here, or is a reference (:func:`.reference.fetch_reference` first).
    """
    if result.encoding == "json":
        try:
            return values.decode(result.payload)
        except values.UndecodableValue as error:
            raise ValueDecodeError(error.path, error.problem) from None
        except RecursionError:
            raise ValueDecodeError("$", "it is nested too deeply") from None
    if result.encoding == "cloudpickle":
        return _unpickled(result, allow_pickle)
    if result.encoding == "reference":
        raise ValueDecodeError("$", "it is in the result store and has to be fetched first")
    raise ValueDecodeError("$", f"encoding {result.encoding!r:.60} is unknown")


def _unpickled(result: JobResult, allow_pickle: bool) -> Any:
    if not allow_pickle:
        raise ValueDecodeError("$", 'it is a pickle, which is read only if value_format="cloudpickle" was asked for')
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    there = ".".join(result.python.split(".")[:2])
    if here != there:
        raise ValueDecodeError("$", f"it was pickled by Python {there}, and this is Python {here}")
    import cloudpickle

    try:
        return cloudpickle.loads(base64.b64decode(result.payload))
    except Exception as error:
        raise ValueDecodeError("$", f"unpickling raised {type(error).__name__}: {error}") from None
