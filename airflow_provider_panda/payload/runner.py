"""Runs one job of an archive on a worker node and reports how it ended.

Shipped inside the archive and started as ``python3 panda_runner/runner.py --job KEY --attempt N --task-key KEY``, or by
iDDS's wrapper as ``... --task-key KEY --manifest HASH ./run_workflow.sh``, where the script says which job it is
(facts/idds.md section 10). Standard library only, Python 3.9-3.13. A job may be short, so until the function's first
line nothing is imported that a bare interpreter has not imported already (``json`` alone costs as much as the start of
Python); what is needed afterwards is in ``report`` and ``publish``.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False  # the name that type checkers know; importing it from typing takes 5 ms
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

if __name__ == "__main__":
    # Started by its path: become part of the package without leaving this directory where user modules are found.
    _HERE = os.path.dirname(os.path.abspath(__file__))
    _package = type(sys)("panda_runner")
    _package.__path__ = [_HERE]
    sys.modules["panda_runner"] = _package
    sys.modules["panda_runner.runner"] = sys.modules["__main__"]
    __package__ = "panda_runner"
    sys.path[0] = os.path.join(os.path.dirname(_HERE), "modules")
    sys.path.append(os.path.dirname(_HERE))

EXIT_RAISED = 71
"""The function raised."""
EXIT_REFUSED = 72
"""The function could not be run, or its value cannot travel; no other node would do better."""
EXIT_UNFIT = 73
"""This node lacks a module, or its Python is too old."""
EXIT_UNDELIVERED = 74
"""The function ended, and nothing of it could be published, stored or written."""

FORMAT = 1
"""Version of the archive's layout."""
FUNCTION_MODULE = "function"
"""Name under which the shipped source is a module."""


class Stop(Exception):  # noqa: N818 - an end, not always an error
    """The job ends before or after the function without its fault.

    :param status: one of envelope's statuses, "refused" or "unfit".
    :param kind: short name of the reason, the exception type in the report.
    """

    def __init__(self, status: str, kind: str, problem: str) -> None:
        self.status, self.kind, self.problem = status, kind, problem
        super().__init__(problem)


def _json_loads() -> Callable[[str], Any]:
    """Return ``json.loads`` without the module ``json``, whose import of ``re`` costs 10 ms: its C scanner alone."""
    try:
        from _json import make_scanner
    except ImportError:  # another implementation of Python
        import json

        return json.loads

    class Settings:
        strict = True
        object_hook = object_pairs_hook = None
        parse_float = float
        parse_int = int
        parse_constant = float
        memo: Dict[str, str] = {}  # noqa: RUF012

    scan = make_scanner(Settings())  # type: ignore[arg-type]

    def loads(text: str) -> Any:
        text = text.strip()
        try:
            value, end = scan(text, 0)
        except StopIteration:
            end, value = -1, None
        if end != len(text):
            raise ValueError("no JSON: %.40r" % text)
        return value

    return loads


loads = _json_loads()


class Options:
    """The command line."""

    def __init__(self) -> None:
        self.job = -1
        self.attempt = 1
        self.task_key = ""
        self.secret: Optional[str] = None
        self.result_store: Optional[str] = None
        self.manifest: Optional[str] = None
        self.publish = True
        self.wrapped = ""
        self.rest: List[str] = []


class Job:
    """One job of an unpacked archive: its manifest, settings, function and arguments."""

    def __init__(self, root: str, options: Options) -> None:
        self.root, self.options = root, options
        self.manifest: Dict[str, Any] = {}
        self.settings: Dict[str, Any] = {}
        self.source = ""
        self.started = time.time()


def job_index(key: str) -> int:
    """Return the index of a job from its key as PanDA passes it: ``0``, ``j0``, ``['j0']`` or ``000000:j0``.

    :raises ValueError: the text is none of these.
    """
    text = key.strip().strip("[]").strip().strip("'\"").rpartition(":")[2]
    if len(text) > 2 and not text[1:].isdigit():  # iDDS passes its job keys as base64 of JSON
        from binascii import a2b_base64

        try:
            text = str(loads(a2b_base64(text).decode("ascii")))
        except ValueError:
            pass
    digits = text[1:] if text.startswith("j") else text
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("job key %.80r is none" % key)
    return int(digits)


def parse(argv: List[str]) -> Options:
    """Return the options of a command line; words that are none of ours stay in ``rest``.

    :raises ValueError: an option lacks its value, or a value is wrong.
    """
    options = Options()
    words = iter(argv)
    for word in words:
        if word == "--no-publish":
            options.publish = False
        elif word in ("--job", "--attempt", "--task-key", "--secret", "--result-store", "--manifest"):
            value = next(words, None)
            if value is None:
                raise ValueError("%s lacks its value" % word)
            if word == "--job":
                options.job = job_index(value)
            elif word == "--attempt":
                options.attempt = int(value)
            else:
                setattr(options, word[2:].replace("-", "_"), value)
        else:
            options.rest.append(word)
    if options.job < 0 and options.rest:
        with open(options.rest[0], encoding="utf-8") as file:
            options.wrapped = file.read()
        options.job = job_index(wrapped_word(options.wrapped, "--current_job_kwargs"))
        attempt = wrapped_word(options.wrapped, "--key")
        options.attempt = int(attempt) if attempt.isdigit() else 1
    if options.job < 0 or not options.task_key:
        raise ValueError("--job and --task-key are needed")
    return options


def wrapped_word(script: str, option: str) -> str:
    """Return the word after an option in the script of iDDS's wrapper, where every word stands in double quotes."""
    head = '"%s" "' % option
    start = script.rfind(head)
    if start < 0:
        return ""
    start += len(head)
    return script[start : script.find('"', start)]


def check_files(job: Job, manifest: bytes) -> None:
    """Check the files against the manifest, and it against the hash that was submitted, where somebody else unpacked.

    :raises Stop: a file is not the one that was packed.
    """
    expected = job.options.manifest
    if expected is None:
        return
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]  # without the 5 ms that hashlib takes
    except ImportError:
        from hashlib import sha256
    changed = [] if sha256(manifest).hexdigest() == expected else ["manifest.json"]
    for name, wanted in () if changed else job.manifest["members"].items():
        try:
            with open(os.path.join(job.root, name), "rb") as file:
                found = sha256(file.read()).hexdigest()
        except OSError:
            found = ""
        if found != wanted:
            changed.append(name)
    if changed:
        problem = "%s of the archive is not what was submitted; nothing of it was run"
        raise Stop("refused", "ArchiveChanged", problem % ", ".join(changed[:5]))


def load_settings(job: Job) -> None:
    """Find the signing key and the broker: the user secret named by ``--secret``, else the archive's own.

    The pilot leaves user secrets in ``panda_secrets.json`` (facts/panda.md section 11), prun in the environment.
    """
    text = None
    name = job.options.secret
    if name is not None:
        try:
            with open("panda_secrets.json", encoding="utf-8") as file:
                text = loads(file.read()).get(name)
        except (OSError, ValueError, AttributeError):
            text = None
        text = text or os.environ.get(name)
    path = os.path.join(job.root, "delivery.json")
    if text is None and os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            text = file.read()
    try:
        settings = loads(text) if text is not None else {}
    except (ValueError, TypeError):
        settings = {}
    if not isinstance(settings, dict) or not (settings.get("instance_secret") or settings.get("signing_key")):
        where = "user secret %s (panda_secrets.json or the environment)" % name if name else "delivery.json"
        raise Stop(
            "refused", "NoSigningKey", "no signing key in %s: nothing that this job reports could be trusted" % where
        )
    job.settings = settings


def load_function(job: Job) -> Callable[..., Any]:
    """Return the function of the archive."""
    manifest = job.manifest
    here = "%d.%d" % sys.version_info[:2]
    if manifest["form"] == "cloudpickle":
        if manifest["python"] != here:
            problem = "the function was shipped as cloudpickle bytes of Python %s, and this node runs Python %s"
            raise Stop("unfit", "WrongPython", problem % (manifest["python"], here))
        import pickle

        with open(os.path.join(job.root, "function.pkl"), "rb") as file:
            function: Callable[..., Any] = pickle.load(file)  # noqa: S301 - of the archive, whose hash was checked
        return function
    path = os.path.join(job.root, "function.py")
    with open(path, encoding="utf-8") as file:
        job.source = file.read()
    try:
        code = compile(job.source, path, "exec", dont_inherit=True)
    except SyntaxError as error:
        problem = "Python %s is too old for the function (it was written for %s): %s, line %s: %s"
        text = (error.text or "").strip()
        raise Stop(
            "unfit", "PythonTooOld", problem % (here, manifest["python"], error.msg, error.lineno, text)
        ) from None
    module = type(sys)(FUNCTION_MODULE)
    module.__file__ = path
    sys.modules[FUNCTION_MODULE] = module
    exec(code, module.__dict__)  # noqa: S102 - what the job is for
    found: Any = module
    for name in manifest["entry"].split("."):
        found = getattr(found, name)
    return found  # type: ignore[no-any-return]


def load_arguments(job: Job) -> Tuple[List[Any], Dict[str, Any]]:
    """Return the arguments of the job: the common ones, with its own over them."""
    index = job.options.job
    if index >= job.manifest["n_jobs"]:
        raise Stop("refused", "NoSuchJob", "the archive has %d jobs, and no job %d" % (job.manifest["n_jobs"], index))
    with open(os.path.join(job.root, "arguments.json"), encoding="utf-8") as file:
        common = _value(job, file.read())
    with open(os.path.join(job.root, "jobs.jsonl"), encoding="utf-8") as file:
        line = next(text for number, text in enumerate(file) if number == index)
    kwargs = dict(common["kwargs"])
    kwargs.update(_value(job, line))
    return common["args"], kwargs


def _value(job: Job, text: str) -> Any:
    """Decode a JSON text; ``values`` is imported only if there is a tag in it, and pickle only for a bare string."""
    if '"$type"' not in text:
        value = loads(text)
        if not isinstance(value, str):
            return value
        import pickle
        from binascii import a2b_base64

        return pickle.loads(a2b_base64(value))  # noqa: S301 - as above
    from . import values

    try:
        return values.loads(text, _classes(job))
    except values.MissingLibrary as error:
        raise Stop("unfit", "MissingModule", "an argument cannot be rebuilt: %s" % error) from None
    except values.UndecodableValue as error:
        raise Stop("refused", "UndecodableValue", "an argument cannot be rebuilt: %s" % error) from None


def _classes(job: Job) -> Dict[str, type]:
    """Return the classes of dataclass and enum arguments by their keys; the archive defines or includes them."""
    table = {}
    for key, (module, name) in job.manifest["classes"].items():
        found: Any = sys.modules.get(module)
        if found is None:
            from importlib import import_module

            found = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        table[key] = found
    return table


def main(argv: List[str], root: str) -> int:
    """Run one job and return the exit code of the process."""
    try:
        options = parse(argv)
    except (ValueError, OSError) as error:
        sys.stderr.write("airflow-panda runner: %s\n" % error)
        return EXIT_REFUSED
    job = Job(root, options)
    value: Any = None
    failure: Optional[BaseException] = None
    function_began = False
    try:
        with open(os.path.join(root, "manifest.json"), "rb") as file:
            manifest = file.read()
        job.manifest = loads(manifest.decode("utf-8"))
        check_files(job, manifest)
        if job.manifest.get("format") != FORMAT:
            raise Stop("refused", "UnknownFormat", "the archive has format %.20r" % (job.manifest.get("format"),))
        load_settings(job)
        function = load_function(job)
        args, kwargs = load_arguments(job)
        function_began = True
        job.started = time.time()
        value = function(*args, **kwargs)
    except BaseException as raised:  # SystemExit and KeyboardInterrupt of user code are exceptions as well
        failure = raised
    ended = time.time()
    from . import report

    return report.conclude(job, value, failure, function_began=function_began, ended=ended)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.path.dirname(_HERE)))
