"""What a job reports: encodes the value or the exception, signs it, writes ``jobReport.json`` and publishes.

Shipped to the worker node and imported after the function has ended: standard library only, Python 3.9-3.13.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from . import envelope, values
from .runner import EXIT_RAISED, EXIT_REFUSED, EXIT_UNDELIVERED, EXIT_UNFIT, FUNCTION_MODULE, Job, Stop

TRACEBACK_LIMIT = 64 * 1024
"""Longest traceback text, in characters; of a longer one the head and the tail are kept."""
MESSAGE_LIMIT = 4 * 1024
"""Longest exception message, in characters."""
EXIT_MESSAGE_LIMIT = 400
"""Longest ``exitMsg`` of the job report, in characters: PanDA keeps 500 of a diagnostic text."""
REPORT_NAME = "jobReport.json"

_EXIT_CODES = {
    envelope.RETURNED: 0,
    envelope.RAISED: EXIT_RAISED,
    envelope.REFUSED: EXIT_REFUSED,
    envelope.UNFIT: EXIT_UNFIT,
}


def conclude(job: Job, value: Any, error: BaseException | None, *, function_began: bool, ended: float) -> int:
    """Report how a job ended and return the exit code of the process.

    :param value: what the function returned, if ``error`` is None.
    :param function_began: whether ``error`` may come from the function itself.
    :param ended: Unix time, in seconds.
    """
    encoding, payload = "json", None
    if error is None:
        try:
            encoding, payload = encode_result(job, value)
            status, exception = envelope.RETURNED, None
        except Stop as stop:
            status, exception = stop.status, describe_stop(stop)
        except Exception as problem:  # user code may run inside: __reduce__, properties of a dataclass
            status, exception = envelope.REFUSED, describe(job, problem)
    elif isinstance(error, Stop):
        status, exception = error.status, describe_stop(error)
    else:
        status, exception = classify(job, error, function_began)
    report = {
        "task_key": job.options.task_key,
        "job": job.options.job,
        "attempt": job.options.attempt,
        "status": status,
        "encoding": encoding,
        "payload": payload,
        "exception": exception,
        "start": job.started,
        "end": ended,
        "host": os.uname().nodename,
        "site": os.environ.get("PILOT_SITENAME") or os.environ.get("PANDA_RESOURCE"),
        "panda_id": _panda_id(),
        "python": "%d.%d.%d" % sys.version_info[:3],
    }
    code = _EXIT_CODES[status]
    if exception is not None and exception["type"] == "ResultStoreUnreachable":
        code = EXIT_UNDELIVERED
    return deliver(job, report, code)


def deliver(job: Job, report: dict[str, Any], code: int) -> int:
    """Sign, write ``jobReport.json``, publish; return the exit code."""
    exception = report["exception"]
    line = "returned" if exception is None else "%s: %s" % (exception["type"], exception["message"])
    who = "airflow-panda %s job %d attempt %d" % (report["task_key"], report["job"], report["attempt"])
    signed = None
    key = signing_key(job.settings, report["task_key"])
    if key is not None:
        signed = envelope.sign(report, key)
    written = write_report(signed, code, _one_line(line), who)
    published = False
    broker = job.settings.get("broker")
    if signed is not None and broker is not None and job.options.publish:
        from . import publish

        request_id, transform_id = idds_ids(job)
        headers, body = envelope.message(
            report,
            signed,
            name=str(job.manifest.get("function", "")),
            request_id=request_id,
            transform_id=transform_id,
        )
        outcome = publish.publish(broker, headers, body)
        published = outcome.ok
        if not published:
            sys.stderr.write("%s: not published: %s; jobReport.json carries it\n" % (who, outcome.problem))
    sys.stderr.write("%s: %s\n" % (who, _one_line(line)))
    if code == 0 and not (published or written):
        sys.stderr.write("%s: the value could neither be published nor written to %s\n" % (who, REPORT_NAME))
        return EXIT_UNDELIVERED
    return code


def idds_ids(job: Job) -> tuple[int | None, int | None]:
    """Return request and transform of a job that iDDS started: they are in the context that its script carries."""
    from base64 import b64decode

    from .runner import wrapped_word

    try:
        context = json.loads(b64decode(wrapped_word(job.options.wrapped, "--context")))["attributes"]
        return int(context["_workflow_context"]["attributes"]["_request_id"]), int(context["_transform_id"])
    except (ValueError, KeyError, TypeError):
        return None, None


def signing_key(settings: dict[str, Any], task_key: str) -> bytes | None:
    """Return the key of the task from the delivery settings, or None if there is none."""
    if settings.get("signing_key"):
        return bytes.fromhex(settings["signing_key"])
    if settings.get("instance_secret"):
        return envelope.derive_key(settings["instance_secret"], task_key)
    return None


def write_report(signed: dict[str, Any] | None, code: int, message: str, who: str) -> bool:
    """Write the job report atomically; return whether it is there and small enough for PanDA to keep."""
    content: dict[str, Any] = {"exitCode": code, "exitMsg": message}
    if signed is not None:
        content[envelope.BODY_KEY] = signed
    text = json.dumps(content)
    try:
        with open(REPORT_NAME + ".part", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(REPORT_NAME + ".part", REPORT_NAME)
    except OSError as error:
        sys.stderr.write("%s: cannot write %s: %s\n" % (who, REPORT_NAME, error))
        return False
    return len(text) < envelope.BODY_LIMIT


# --- the value -----------------------------------------------------------------------------------------------


def encode_result(job: Job, value: Any) -> tuple[str, Any]:
    """Return encoding and payload of a value: inline, or a reference to the result store.

    :raises Stop: the value cannot be encoded, is too large, or the store cannot be reached.
    """
    if job.manifest["value_format"] == "cloudpickle":
        encoding, text = "cloudpickle", _pickled(value)
        payload: Any = text
    else:
        encoding = "json"
        try:
            payload = values.encode(value)
            text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
        except values.UnsupportedValue as error:
            remedy = "return plain values, tuples, numpy arrays or pandas frames, or ask for value_format='cloudpickle'"
            raise Stop(
                envelope.REFUSED,
                "UnsupportedValue",
                "the return value at %s: %s; %s" % (error.path, error.problem, remedy),
            ) from None
    if len(text) <= envelope.INLINE_LIMIT:
        return encoding, payload
    if job.options.result_store is None:
        problem = (
            "the return value takes %d bytes, and %d is the limit: return a smaller value (write the data to a file and"
            " return its name), or set a result store on the connection"
        )
        raise Stop(envelope.REFUSED, "ResultTooLarge", problem % (len(text), envelope.INLINE_LIMIT))
    return "reference", _store(job, text.encode("ascii"), encoding)


def _pickled(value: Any) -> str:
    from binascii import b2a_base64

    try:
        import cloudpickle as pickler
    except ImportError:
        import pickle as pickler
    try:
        if hasattr(pickler, "register_pickle_by_value") and FUNCTION_MODULE in sys.modules:
            pickler.register_pickle_by_value(sys.modules[FUNCTION_MODULE])
        return b2a_base64(pickler.dumps(value), newline=False).decode()
    except Exception as error:
        problem = "the return value cannot be pickled: %s: %s" % (type(error).__name__, error)
        raise Stop(envelope.REFUSED, "UnsupportedValue", problem) from None


def _store(job: Job, content: bytes, encoding: str) -> dict[str, Any]:
    import hashlib

    from . import store

    options = job.options
    name = "%s/%d.%d.json" % (options.task_key, options.job, options.attempt)
    try:
        url = store.put(options.result_store or "", name, content)
    except (OSError, ValueError) as error:
        problem = "the result store %s does not take the value: %s" % (options.result_store, error)
        raise Stop(envelope.UNFIT, "ResultStoreUnreachable", problem) from None
    return {"url": url, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "encoding": encoding}


# --- the exception -------------------------------------------------------------------------------------------


def classify(job: Job, error: BaseException, function_began: bool) -> tuple[str, dict[str, str]]:
    """Return status and description of an exception: a missing module is the node's fault, the rest the function's."""
    exception = describe(job, error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        problem = "module %r is not installed on %s (Python %d.%d.%d, %s)"
        node = os.uname().nodename
        exception["type"] = "MissingModule"
        exception["message"] = problem % (error.name, node, *sys.version_info[:3], sys.executable)
        return envelope.UNFIT, exception
    if isinstance(error, values.MissingLibrary) and not function_began:
        exception["type"] = "MissingModule"
        exception["message"] = "a constant cannot be rebuilt on %s: %s" % (os.uname().nodename, error)
        return envelope.UNFIT, exception
    if isinstance(error, ImportError) and not function_began:
        exception["message"] += " (on %s, Python %d.%d.%d)" % (os.uname().nodename, *sys.version_info[:3])
        return envelope.UNFIT, exception
    if not job.manifest or not job.settings:  # the archive itself could not be read
        return envelope.REFUSED, exception
    return envelope.RAISED, exception


def describe_stop(stop: Stop) -> dict[str, str]:
    """Return the description of a reason of ours: no traceback, for the user's code has no part in it."""
    return {"type": stop.kind, "message": stop.problem, "traceback": ""}


def describe(job: Job, error: BaseException) -> dict[str, str]:
    """Return type, message and traceback of an exception, without the runner's own frames."""
    import linecache
    import traceback

    path = os.path.join(job.root, "function.py")
    if job.source:
        linecache.cache[path] = (len(job.source), None, job.source.splitlines(True), path)
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be made: __str__ raised)"
    frames = error.__traceback__
    own = os.path.dirname(os.path.abspath(__file__)) + os.sep
    while frames is not None and os.path.abspath(frames.tb_frame.f_code.co_filename).startswith(own):
        frames = frames.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
    except Exception as problem:
        text = "(the traceback cannot be made: %s)" % problem
    return {
        "type": values.type_name(type(error)),
        "message": _capped(message, MESSAGE_LIMIT),
        "traceback": _capped(text, TRACEBACK_LIMIT),
    }


def _capped(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return "%s\n... %d characters left out ...\n%s" % (text[:half], len(text) - 2 * half, text[-half:])


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    line = line.encode("utf-8", "backslashreplace").decode()
    return line if len(line) <= EXIT_MESSAGE_LIMIT else line[: EXIT_MESSAGE_LIMIT - 3] + "..."


def _panda_id() -> int | None:
    text = os.environ.get("PANDAID", "")
    return int(text) if text.isascii() and text.isdigit() else None
