"""Local files packed for jobs: the same files make the same archive, so that they are uploaded once."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from airflow_provider_panda.exceptions import ConfigurationError

SIZE_LIMIT: Final = 768 * 1024 * 1024
"""Largest archive in bytes that PanDA's cache takes under a name that begins with ``sources.`` (facts/panda.md 3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """An archive of local files.

    :param name: file name in PanDA's cache, ``sources.<sha256>.tar.gz``.
    :param sha256: hash of the content.
    :param content: its bytes.
    :param members: names of the files in it.
    """

    name: str
    sha256: str
    content: bytes = field(repr=False)
    members: tuple[str, ...]


def build_sandbox(paths: Sequence[str | os.PathLike[str]], *, base: Path | None = None) -> Sandbox:
    """Pack files and directories; a job finds each under its own name in its working directory.

    :param paths: files and directories; links are followed.
    :param base: directory that relative paths start from.
    :raises ConfigurationError: one is not there, two have the same name, or they are too large.
    """
    found: dict[str, Path] = {}
    for given in paths:
        path = (base or Path()) / Path(given).expanduser()
        if not path.exists():
            raise ConfigurationError("argument files", f"{path} is not there", "Correct the path, or make the file")
        for name, file in _members(path):
            if name in found:
                raise ConfigurationError(
                    "argument files",
                    f"{file} and {found[name]} would both be {name}",
                    "Rename one, or pack a directory",
                )
            found[name] = file
    content = _packed(found)
    if len(content) > SIZE_LIMIT:
        raise ConfigurationError(
            "argument files",
            f"packed they have {len(content)} bytes, and PanDA's cache takes {SIZE_LIMIT}",
            "Put large files where jobs can read them, such as CVMFS or a dataset",
        )
    digest = hashlib.sha256(content).hexdigest()
    return Sandbox(name=f"sources.{digest}.tar.gz", sha256=digest, content=content, members=tuple(sorted(found)))


def _members(path: Path) -> Iterator[tuple[str, Path]]:
    name = path.resolve().name if path.name in ("", ".", "..") else path.name
    if not path.is_dir():
        yield name, path
        return
    for folder, folders, files in os.walk(path, followlinks=True):
        folders[:] = sorted(each for each in folders if each != "__pycache__")
        for file in sorted(files):
            inside = Path(folder, file)
            yield f"{name}/{inside.relative_to(path).as_posix()}", inside


def _packed(found: dict[str, Path]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(found):
            content = found[name].read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o755 if os.access(found[name], os.X_OK) else 0o644
            tar.addfile(entry, io.BytesIO(content))
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=6, mtime=0) as file:
        file.write(raw.getvalue())
    return packed.getvalue()
