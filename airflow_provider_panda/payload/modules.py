"""Which modules a worker node can be expected to have, and the files of those that travel in the archive.

A module is *available* if it is part of the standard library or installed here. One that can be imported only because
the folder of DAG files is on ``sys.path`` is not: no worker node has that folder. ``include=`` ships it.
"""

from __future__ import annotations

import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

_SKIPPED_FOLDERS = frozenset({"__pycache__", ".git", ".svn", ".mypy_cache", ".ruff_cache", ".pytest_cache"})


class IncludeError(ValueError):
    """An entry of ``include=`` names nothing that can be shipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Included:
    """A module or package that travels in the archive.

    :param name: top-level name it is imported by.
    :param path: its file, or the folder of the package.
    """

    name: str
    path: Path


def is_available(module: str) -> bool:
    """Whether a worker node can be expected to have the module: standard library, or installed here."""
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names or root in sys.builtin_module_names or root in _known or _is_installed(root)


_known: set[str] = set()
"""Top-level names found installed; one that is missing is looked up again, for it may be installed later."""


def _is_installed(root: str) -> bool:
    if root == "__main__":
        return False
    finders = [finder for finder in sys.meta_path if finder is not PathFinder]
    spec = PathFinder.find_spec(root)
    if spec is None:  # a finder of its own, as editable installs bring
        try:
            found = any(finder.find_spec(root, None) is not None for finder in finders)
        except (ImportError, AttributeError, ValueError):
            found = False
    else:
        places = [spec.origin] if spec.origin and spec.has_location else list(spec.submodule_search_locations or ())
        found = any(_in_site(place) for place in places)
    if found:
        _known.add(root)
    return found


def _in_site(place: str) -> bool:
    parent = Path(place).parent
    if parent.name and Path(place).name.startswith("__init__."):
        parent = parent.parent
    folders = _site_folders()
    return str(parent) in folders or os.path.realpath(parent) in folders


@lru_cache(maxsize=1)
def _site_folders() -> frozenset[str]:
    """Return the folders of installed modules, with those that ``.pth`` files (editable installs) add."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        folders.add(site.getusersitepackages())
    folders.update(entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages"))
    found = set(folders)
    for folder in folders:
        for pth in Path(folder).glob("*.pth") if Path(folder).is_dir() else ():
            try:
                lines = pth.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                continue
            for line in lines:
                text = line.strip()
                if text and not text.startswith(("#", "import ", "import\t")):
                    found.add(str(Path(folder, text)))
    return frozenset(found | {os.path.realpath(folder) for folder in found})


def resolve_include(
    entries: Sequence[str | ModuleType | os.PathLike[str]], *, beside: str | None = None
) -> tuple[Included, ...]:
    """Return what the entries of ``include=`` name.

    :param entries: modules, their names, or paths of files and packages.
    :param beside: file of the function; names and relative paths are looked up next to it as well.
    :raises IncludeError: an entry names nothing.
    """
    if isinstance(entries, (str, ModuleType, os.PathLike)):
        entries = [entries]
    found = {}
    for entry in entries:
        included = _resolve(entry, Path(beside).parent if beside else None)
        found[included.name] = included
    return tuple(found[name] for name in sorted(found))


def _resolve(entry: str | ModuleType | os.PathLike[str], beside: Path | None) -> Included:
    if isinstance(entry, ModuleType):
        return _of_module(entry.__name__, beside, entry)
    text = os.fspath(entry)
    if not isinstance(entry, str) or os.sep in text or text.endswith(".py"):
        return _of_path(Path(text), beside)
    return _of_module(text, beside, sys.modules.get(text.partition(".")[0]))


def _of_path(path: Path, beside: Path | None) -> Included:
    candidates = [path] if path.is_absolute() or beside is None else [beside / path, path]
    for candidate in candidates:
        if candidate.is_file() and candidate.suffix == ".py" and candidate.stem.isidentifier():
            if candidate.stem == "__init__":
                candidate = candidate.parent.resolve()
            return Included(name=candidate.stem, path=candidate)
        if candidate.is_dir() and candidate.resolve().name.isidentifier():
            return Included(name=candidate.resolve().name, path=candidate)
    raise IncludeError(f"include={str(path)!r} is neither a Python file nor a folder of a package")


def _of_module(name: str, beside: Path | None, module: ModuleType | None) -> Included:
    root = name.partition(".")[0]
    spec = getattr(sys.modules.get(root, module), "__spec__", None)
    if spec is None:
        try:
            spec = importlib.util.find_spec(root)
        except (ImportError, ValueError):
            spec = None
    if spec is not None:
        if spec.submodule_search_locations:
            return Included(name=root, path=Path(next(iter(spec.submodule_search_locations))))
        if spec.origin and spec.origin.endswith(".py"):
            return Included(name=root, path=Path(spec.origin))
        raise IncludeError(f"include={name!r} is no module of Python source that could be shipped")
    if beside is not None:
        for candidate in (beside / f"{root}.py", beside / root):
            if candidate.exists():
                return _of_path(candidate, None)
    raise IncludeError(f"include={name!r} is no module that can be found here")


def included_files(included: Included) -> dict[str, bytes]:
    """Return the files of an included module by their names below ``modules/``."""
    if included.path.is_file():
        return {f"{included.name}.py": included.path.read_bytes()}
    files = {}
    for folder, subfolders, names in os.walk(included.path):
        subfolders[:] = sorted(set(subfolders) - _SKIPPED_FOLDERS)
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix not in (".pyc", ".pyo") and path.is_file():
                files[f"{included.name}/{path.relative_to(included.path).as_posix()}"] = path.read_bytes()
    return files
