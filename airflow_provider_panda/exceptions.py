"""Every error of the package: each carries its facts as fields and says in its message what to do next.

Errors of the layers below (HTTP, STOMP, panda-client, pickling) are mapped to these once, where they occur.
Nothing here imports Airflow, so that ``payload``, ``grid`` and ``broker`` work from a plain script.
"""

from __future__ import annotations

from collections.abc import Sequence


class PandaProviderError(Exception):
    """Base of all errors of this package."""


class ConfigurationError(PandaProviderError):
    """A connection field, an option or an argument is wrong.

    :param subject: what is wrong: a field ("connection panda_default, field auth") or an argument.
    :param problem: what is wrong with it.
    :param remedy: what to do.
    """

    def __init__(self, subject: str, problem: str, remedy: str) -> None:
        self.subject, self.problem, self.remedy = subject, problem, remedy
        super().__init__(f"{subject}: {problem}. {remedy}")


class AirflowUnreadableError(PandaProviderError):
    """Airflow's database or REST API does not say what it waits for; nothing is decided without."""


# --- packaging a function (before submission) ---------------------------------------------------------------


class PackagingError(PandaProviderError):
    """A function or its arguments cannot be shipped.

    :param function: name of the function.
    :param problem: what cannot travel, naming the variable.
    :param remedy: what to do.
    :param filename: source file, when known.
    :param line: line in that file, when known.
    """

    def __init__(
        self,
        *,
        function: str,
        problem: str,
        remedy: str,
        filename: str | None = None,
        line: int | None = None,
    ) -> None:
        self.function, self.problem, self.remedy = function, problem, remedy
        self.filename, self.line = filename, line
        where = f" ({filename}:{line})" if filename and line else f" ({filename})" if filename else ""
        super().__init__(f"cannot ship {function}(){where}: {problem}. {remedy}")


class MissingModuleError(PackagingError):
    """A function imports a module that is neither standard, nor installed here, nor included.

    :param module: name of the module.
    """

    def __init__(self, *, module: str, function: str, filename: str | None, line: int | None) -> None:
        self.module = module
        super().__init__(
            function=function,
            problem=f"it imports {module!r}, which is neither in the standard library, nor installed, nor included",
            remedy=f"Ship it with include=[{module!r}] (or the path of the file), or install it",
            filename=filename,
            line=line,
        )


class ArchiveError(PandaProviderError):
    """An archive does not match its hash, or holds members that leave its directory."""


# --- results ------------------------------------------------------------------------------------------------


class EnvelopeError(PandaProviderError):
    """A result message is no envelope of ours: malformed, of an unknown version, too large or for another task."""


class SignatureError(EnvelopeError):
    """The signature of a result envelope is missing or wrong; nothing in it was decoded."""


class ValueDecodeError(PandaProviderError):
    """A value that came back signed cannot be rebuilt here.

    :param path: place in the value, such as ``$.points[3]``.
    :param problem: what is wrong.
    """

    def __init__(self, path: str, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"cannot decode the value at {path}: {problem}")


# --- PanDA --------------------------------------------------------------------------------------------------


class GridError(PandaProviderError):
    """Base of all errors of a call to PanDA.

    :param url: address without credentials.
    """

    def __init__(self, message: str, *, url: str = "") -> None:
        self.url = url
        super().__init__(message)


class GridUnreachableError(GridError):
    """No answer: connection refused, name not resolved, TLS failure or our own deadline passed. Safe to try again."""


class GridServerError(GridError):
    """HTTP 5xx, or an answer that is no JSON (a proxy's or a load balancer's page). Often passes by itself.

    :param status: HTTP status.
    :param retry_after: seconds after which the server wants to be asked again (its Retry-After), or None.
    """

    def __init__(self, message: str, *, url: str = "", status: int = 0, retry_after: float | None = None) -> None:
        self.status, self.retry_after = status, retry_after
        super().__init__(message, url=url)


class GridAuthError(GridError):
    """PanDA does not accept the credentials (403, or "SSL secure connection is required" at HTTP 200)."""


class GridRefusedError(GridError):
    """PanDA understood the call and refused it; the message says why."""


class GridAnswerTooLargeError(GridError):
    """An answer is larger than we read; ask for less at once."""


class TaskNotFoundError(GridRefusedError):
    """PanDA does not know the task: normal for up to a minute after its submission (facts/panda.md section 3)."""


# --- broker -------------------------------------------------------------------------------------------------


class BrokerError(PandaProviderError):
    """A broker cannot be used.

    :param address: ``host:port`` without credentials.
    """

    def __init__(self, message: str, *, address: str = "") -> None:
        self.address = address
        super().__init__(message)


# --- outcomes of a task on the grid -------------------------------------------------------------------------


class GridTaskError(PandaProviderError):
    """Base of what a grid task can end with other than its values.

    :param task_key: key of the task (in its PanDA name and in log lines).
    :param task_id: jediTaskID, when known.
    """

    def __init__(self, message: str, *, task_key: str, task_id: int | None) -> None:
        self.task_key, self.task_id = task_key, task_id
        super().__init__(message)


class JobRaisedError(GridTaskError):
    """The function raised on the grid; the message is the remote exception and where it ran.

    :param job: index of the job in the call.
    :param remote_traceback: full traceback text of the worker node.
    """

    def __init__(self, message: str, *, task_key: str, task_id: int | None, job: int, remote_traceback: str) -> None:
        self.job, self.remote_traceback = job, remote_traceback
        super().__init__(message, task_key=task_key, task_id=task_id)


class GridTaskFailedError(GridTaskError):
    """PanDA ended the task without success, or the grid could not run a job at all."""


class MissingResultsError(GridTaskError):
    """The task ended well for PanDA, but values of some jobs did not arrive.

    :param jobs: indices of the jobs without a value.
    """

    def __init__(self, message: str, *, task_key: str, task_id: int | None, jobs: Sequence[int]) -> None:
        self.jobs = tuple(jobs)
        super().__init__(message, task_key=task_key, task_id=task_id)


class DeadlineExceededError(GridTaskError):
    """The task did not end before its deadline; it was killed."""
