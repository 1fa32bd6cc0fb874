"""Packs a function and the arguments of its jobs into one archive, named by the hash of its content.

The same function and arguments give the same bytes, so that PanDA's cache holds them once (facts/panda.md section 3:
"cannot overwrite file" means that it is there).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import inspect
import io
import json
import os
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from airflow_provider_panda.exceptions import ConfigurationError, MissingModuleError, PackagingError

from . import values
from .callables import Unwrapped, refusal, unwrap
from .modules import Included, IncludeError, included_files, is_available, resolve_include
from .runner import FORMAT
from .source import SourceBuilder
from .syntax import NoSourceError, unguarded_imports

Serializer = Literal["auto", "source", "cloudpickle"]
ValueFormat = Literal["json", "cloudpickle"]
Include = Sequence[str | ModuleType | os.PathLike[str]]

RUNNER_FILES = (
    "bootstrap.py",
    "runner.py",
    "report.py",
    "values.py",
    "arrays.py",
    "envelope.py",
    "publish.py",
    "store.py",
)
"""Modules of this package that travel in every archive, as the package ``panda_runner``."""
_COMPRESSION = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A packed function.

    :param name: file name in PanDA's cache, ``sources.<sha256>.tar.gz``.
    :param sha256: hash of the content, in hexadecimal.
    :param content: the bytes.
    :param manifest_sha256: hash of its manifest, which holds the hashes of all other members.
    :param n_jobs: number of jobs.
    :param form: how the function travels.
    :param function: its name.
    """

    name: str
    sha256: str
    manifest_sha256: str
    content: bytes
    n_jobs: int
    form: Literal["source", "cloudpickle"]
    function: str

    def __repr__(self) -> str:
        return f"Archive({self.name}, {self.form} of {self.function}(), {self.n_jobs} jobs, {len(self.content)} bytes)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What the jobs of one task need to publish, for ``signing="archive"``: who reads the archive can read it.

    :param signing_key: key of that one task (:func:`..envelope.derive_key`).
    :param broker: publish-only broker settings (:func:`broker_settings`), or None.
    """

    signing_key: bytes
    broker: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        return "Delivery(...)"


def build_archive(
    function: Any,
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    per_job: Sequence[Mapping[str, Any]] | None = None,
    serializer: Serializer = "auto",
    include: Include = (),
    value_format: ValueFormat = "json",
    delivery: Delivery | None = None,
) -> Archive:
    """Pack a function and the arguments of its jobs.

    :param function: a function, a class method or a partial object of one.
    :param args: positional arguments of every job.
    :param kwargs: keyword arguments of every job.
    :param per_job: keyword arguments of each job, over the common ones; None means one job.
    :param serializer: "source", "cloudpickle", or "auto": source wherever it can be made.
    :param include: modules, names or paths of modules that travel along.
    :param value_format: how results come back.
    :param delivery: settings for publishing that travel in the archive instead of the user secret.
    :raises PackagingError: something cannot be shipped; the message names it.
    :raises ConfigurationError: an option has no such value.
    """
    unwrapped = _checked(function, serializer)
    if value_format not in get_args(ValueFormat):
        raise ConfigurationError("value_format", f"{value_format!r} is unknown", 'Use "json" or "cloudpickle"')
    if per_job is not None and not per_job:
        raise ConfigurationError("per_job", "there are no jobs", "An empty list of jobs needs no task at all")
    included = _included(unwrapped, include)
    call = _Call(
        function=unwrapped,
        args=(*unwrapped.args, *args),
        kwargs={**unwrapped.kwargs, **(kwargs or {})},
        per_job=[{}] if per_job is None else per_job,
    )
    members: dict[str, bytes] = {}
    for one in included:
        members.update({f"modules/{name}": content for name, content in included_files(one).items()})
    _check_included(unwrapped.name, included)
    form, packed = _packed(call, serializer, frozenset(one.name for one in included))
    members.update(packed.members)
    members.update(_runner_files(with_cloudpickle="cloudpickle" in (value_format, form)))
    if delivery is not None:
        members["delivery.json"] = _delivery_file(delivery)
    manifest = {
        "format": FORMAT,
        "form": form,
        "function": unwrapped.name,
        "entry": packed.entry,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "value_format": value_format,
        "n_jobs": len(call.per_job),
        "classes": packed.classes,
        "members": {name: hashlib.sha256(content).hexdigest() for name, content in sorted(members.items())},
    }
    members["manifest.json"] = json.dumps(manifest, sort_keys=True, indent=1).encode()
    content = _tar_gz(members)
    digest = hashlib.sha256(content).hexdigest()
    return Archive(
        name=f"sources.{digest}.tar.gz",
        sha256=digest,
        manifest_sha256=hashlib.sha256(members["manifest.json"]).hexdigest(),
        content=content,
        n_jobs=len(call.per_job),
        form=form,
        function=unwrapped.name,
    )


def _runner_files(*, with_cloudpickle: bool) -> dict[str, bytes]:
    folder = Path(__file__).parent
    members = {f"panda_runner/{name}": (folder / name).read_bytes() for name in RUNNER_FILES}
    members["panda_runner/__init__.py"] = b""
    if with_cloudpickle:
        from . import bytecode  # with cloudpickle, which most functions do not need

        members.update(bytecode.cloudpickle_files())
    return members


def _delivery_file(delivery: Delivery) -> bytes:
    settings = {"version": 1, "signing_key": delivery.signing_key.hex(), "broker": delivery.broker}
    return json.dumps(settings, sort_keys=True).encode()


def check_function(
    function: Any, *, serializer: Serializer = "auto", map_over: Sequence[str] = (), include: Include = ()
) -> None:
    """Refuse what can be refused while a DAG file is parsed: nothing is packed, and no value is looked at.

    :param map_over: names of arguments that are given as lists.
    :raises PackagingError: the function cannot be shipped.
    :raises ConfigurationError: an option is wrong.
    """
    unwrapped = _checked(function, serializer)
    _included(unwrapped, include)
    if not map_over:
        return
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return
    kinds = inspect.Parameter
    takes_any = any(one.kind is kinds.VAR_KEYWORD for one in parameters.values())
    named = [name for name, one in parameters.items() if one.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    for name in map_over:
        if name not in named and not takes_any:
            have = ", ".join(named) or "none"
            raise ConfigurationError(
                f"map_over={name!r}", f"{unwrapped.name}() has no such argument", f"Its arguments are: {have}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    function: Unwrapped
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    per_job: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packed:
    members: dict[str, bytes]
    entry: str
    classes: dict[str, tuple[str, str]]


def _checked(function: Any, serializer: str) -> Unwrapped:
    if serializer not in get_args(Serializer):
        raise ConfigurationError("serializer", f"{serializer!r} is unknown", 'Use "auto", "source" or "cloudpickle"')
    unwrapped = unwrap(function)
    reason = refusal(function)
    code = getattr(unwrapped.target, "__code__", None)
    if reason is not None:
        raise PackagingError(
            function=unwrapped.name,
            problem=reason,
            remedy="Pass a plain function that returns its value",
            filename=code.co_filename if code else None,
            line=code.co_firstlineno if code else None,
        )
    if serializer == "source" and code is not None and code.co_name == "<lambda>":
        raise _no_source(unwrapped, "a lambda has no source form; write it as a def")
    return unwrapped


def _no_source(function: Unwrapped, reason: str) -> PackagingError:
    code = getattr(function.target, "__code__", None)
    return PackagingError(
        function=function.name,
        problem=reason,
        remedy='Change that, or use serializer="auto"',
        filename=code.co_filename if code else None,
        line=code.co_firstlineno if code else None,
    )


def _included(function: Unwrapped, include: Include) -> tuple[Included, ...]:
    code = getattr(inspect.unwrap(function.target), "__code__", None)
    try:
        return resolve_include(include, beside=code.co_filename if code else None)
    except IncludeError as error:
        raise PackagingError(
            function=function.name, problem=str(error), remedy="Give a module, its name, or the path of its file"
        ) from None


def _check_included(function: str, included: tuple[Included, ...]) -> None:
    """Refuse included modules that import at once what no worker node has."""
    import ast

    names = {one.name for one in included}
    for one in included:
        files = [one.path] if one.path.is_file() else sorted(one.path.rglob("*.py"))
        for path in files:
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue
            for statement in tree.body:
                if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    continue
                for node in unguarded_imports(statement):
                    if isinstance(node, ast.ImportFrom):
                        wanted = [] if node.level else [node.module or ""]
                    else:
                        wanted = [alias.name for alias in node.names]
                    for module in wanted:
                        root = module.partition(".")[0]
                        if root not in names and not is_available(root) and _exists_here(root, path):
                            raise MissingModuleError(
                                module=root, function=function, filename=str(path), line=node.lineno
                            )


def _exists_here(root: str, path: Path) -> bool:
    """Whether a module is known here, only not on worker nodes: what nobody has may be optional."""
    import importlib.util

    try:
        return importlib.util.find_spec(root) is not None or (path.parent / f"{root}.py").exists()
    except (ImportError, ValueError):
        return False


def _packed(
    call: _Call, serializer: Serializer, included: frozenset[str]
) -> tuple[Literal["source", "cloudpickle"], _Packed]:
    if serializer == "cloudpickle":
        return "cloudpickle", _pack_cloudpickle(call, included)
    try:
        return "source", _pack_source(call, included)
    except NoSourceError as error:
        first: PackagingError = _no_source(call.function, str(error))
    except MissingModuleError:
        raise  # another form needs the module just as much
    except PackagingError as error:
        first = error
    if serializer == "source":
        raise first
    try:
        return "cloudpickle", _pack_cloudpickle(call, included)
    except MissingModuleError:
        raise
    except PackagingError as second:
        raise PackagingError(
            function=call.function.name,
            problem=f"as source: {first.problem}; as cloudpickle: {second.problem}",
            remedy=first.remedy,
            filename=first.filename,
            line=first.line,
        ) from None


def _pack_source(call: _Call, included: frozenset[str]) -> _Packed:
    builder = SourceBuilder(call.function, included=included)

    def encoded(value: Any, where: str) -> Any:
        try:
            return values.encode(value, builder.token)
        except values.UnsupportedValue as error:
            raise _bad_argument(call.function, where, error) from None

    arguments = {
        "args": [encoded(value, f"argument {index}") for index, value in enumerate(call.args)],
        "kwargs": {name: encoded(value, f"argument {name!r}") for name, value in call.kwargs.items()},
    }
    lines = [
        _json({name: encoded(value, f"argument {name!r} of job {index}") for name, value in job.items()})
        for index, job in enumerate(call.per_job)
    ]
    source = builder.build()
    try:
        compile(source.text, "function.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        raise NoSourceError(f"the shipped text does not compile: {error}") from None
    members = {
        "function.py": source.text.encode("utf-8"),
        "arguments.json": _json(arguments).encode(),
        "jobs.jsonl": "".join(line + "\n" for line in lines).encode(),
    }
    return _Packed(members=members, entry=source.entry, classes=source.classes)


def _bad_argument(function: Unwrapped, where: str, error: values.UnsupportedValue) -> PackagingError:
    code = getattr(function.target, "__code__", None)
    return PackagingError(
        function=function.name,
        problem=f"{where}{error.path[1:]}: {error.problem}",
        remedy="Pass plain values, or make the object inside the function",
        filename=code.co_filename if code else None,
        line=code.co_firstlineno if code else None,
    )


def _pack_cloudpickle(call: _Call, included: frozenset[str]) -> _Packed:
    """Pack the function as cloudpickle bytes; arguments that JSON cannot carry are pickled as well."""
    from . import bytecode

    pickler = bytecode.Pickler(call.function, included)

    def encoded(value: Any, where: str) -> str:
        try:
            return _json(values.encode(value))
        except values.UnsupportedValue:
            return json.dumps(base64.b64encode(pickler.dumps(value, where)).decode())

    members = {
        "function.pkl": pickler.dumps(pickler.callable, "the function"),
        "arguments.json": encoded({"args": list(call.args), "kwargs": call.kwargs}, "the arguments").encode(),
        "jobs.jsonl": "".join(
            encoded(dict(job), f"the arguments of job {index}") + "\n" for index, job in enumerate(call.per_job)
        ).encode(),
    }
    return _Packed(members=members, entry="", classes={})


def _json(tree: Any) -> str:
    return json.dumps(tree, separators=(",", ":"), allow_nan=False)


def _tar_gz(members: Mapping[str, bytes]) -> bytes:
    """Return the bytes of an archive that depend on names and contents only."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(members):
            entry = tarfile.TarInfo(name)
            entry.size = len(members[name])
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(members[name]))
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=_COMPRESSION, mtime=0) as file:
        file.write(raw.getvalue())
    return packed.getvalue()
