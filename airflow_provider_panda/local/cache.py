"""The file cache: sandboxes that clients upload and jobs fetch (facts/panda.md section 3)."""

from __future__ import annotations

import os
import shutil
import struct
import time
from pathlib import Path
from typing import BinaryIO, Final

from airflow_provider_panda.local.store import Store

KEEP: Final = 7 * 86400.0
"""Seconds after its last touch until a file is removed."""
_MIB: Final = 1024 * 1024
NAME_LIMIT: Final = 200


class CacheError(Exception):
    """The cache does not take a file; the text is the server's answer."""


def size_limit(name: str) -> int:
    """Return how large a file of this name may be, in bytes."""
    if name.startswith("sources."):
        return 768 * _MIB
    return 100 * _MIB if name.endswith(".out") else 10 * _MIB


def safe_name(name: str) -> str:
    """Return the name under which a file is kept: the last part of the path that the client sent.

    :raises CacheError: nothing usable is left.
    """
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    if not last or last.startswith(".") or len(last) > NAME_LIMIT or not last.isprintable():
        raise CacheError("ERROR : invalid file name")
    return last


def gzip_checksum(tail: bytes) -> int:
    """Return what the client takes for a sandbox's checksum: the CRC32 in the last 8 bytes of a gzip file."""
    return int(struct.unpack("<II", tail)[0]) if len(tail) == 8 else 0


class Cache:
    """Files in a directory, noted in the store."""

    def __init__(self, directory: Path, store: Store) -> None:
        self._directory, self._store = directory, store

    def path(self, name: str) -> Path | None:
        """Return the file of this name, or None."""
        try:
            path = self._directory / safe_name(name)
        except CacheError:
            return None
        return path if path.is_file() else None

    def check(self, sent_name: str, size: int) -> Path:
        """Return where an upload is to be written.

        :raises CacheError: it may not be written.
        """
        name = safe_name(sent_name)
        path = self._directory / name
        if size > size_limit(name):
            raise CacheError(f"ERROR : upload failure. Exceeded size limit {size}>{size_limit(name)}.")
        if path.exists() and not name.endswith(".__ow__"):
            raise CacheError("ERROR: cannot overwrite file")
        return path

    def write(self, path: Path, source: BinaryIO) -> tuple[int, int]:
        """Write an upload in one step; return its size and checksum. May run in another thread.

        :raises CacheError: somebody else wrote the file meanwhile.
        """
        scratch = path.with_name(f".{path.name}.{time.monotonic_ns()}")
        source.seek(0)
        with scratch.open("wb") as target:
            shutil.copyfileobj(source, target)
        try:
            if path.name.endswith(".__ow__"):
                scratch.replace(path)
            else:
                os.link(scratch, path)
        except FileExistsError:
            raise CacheError("ERROR: cannot overwrite file") from None
        finally:
            scratch.unlink(missing_ok=True)
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8))
            return size, gzip_checksum(file.read(8))

    def record(self, path: Path, owner: str, size: int, checksum: int) -> None:
        """Note an uploaded file."""
        self._store.files.record(path.name, owner, size, checksum, time.time())
        self._store.commit()

    def touch(self, sent_name: str) -> bool:
        """Note that a file is still needed; False if there is none."""
        path = self.path(sent_name)
        if path is None:
            return False
        path.touch()
        self._store.files.touch(path.name, time.time())
        self._store.commit()
        return True

    def remove(self, sent_name: str) -> bool:
        """Remove a file; False if there is none."""
        path = self.path(sent_name)
        if path is None:
            return False
        path.unlink(missing_ok=True)
        self._store.files.forget(path.name)
        self._store.commit()
        return True

    def purge(self, now: float) -> int:
        """Remove what nobody touched for a week, and return how much that was."""
        stale = self._store.files.stale(now - KEEP)
        for name in stale:
            self.remove(name)
        return len(stale)
