"""Calls of PanDA's module ``file_server``: the sandbox cache."""

from __future__ import annotations

import asyncio
from typing import Any

from airflow_provider_panda.local.api.registry import Answer, Call, Module
from airflow_provider_panda.local.cache import CacheError

_module = Module("file_server")
CALLS = _module.calls


@_module.call("POST")
async def upload_cache_file(call: Call, file: Any) -> Answer:
    """Keep an uploaded file under the last part of its name; never over another."""
    if not hasattr(file, "filename"):
        return Answer(False, f"Type error: 'file' must be of type FileStorage, got {type(file).__name__}.")
    cache = call.grid.cache
    try:
        path = cache.check(file.filename or "", file.size or 0)
        size, checksum = await asyncio.to_thread(cache.write, path, file.file)
    except CacheError as error:
        return Answer(False, str(error))
    cache.record(path, call.user.name, size, checksum)
    return Answer(True)


@_module.call("POST")
def validate_cache_file(call: Call, file_size: int, checksum: int) -> Answer:
    """Say whether the caller has uploaded a file of this size and checksum already."""
    name = call.grid.store.files.find(call.user.name, file_size, checksum)
    if name is None or call.grid.cache.path(name) is None:
        return Answer(False, "NOTFOUND")
    call.grid.cache.touch(name)
    # without the port: the client adds the one it knows
    host = call.grid.url.split("//", 1)[1].rpartition(":")[0]
    return Answer(True, f"FOUND:{host}:{name}")


@_module.call("POST")
def touch_cache_file(call: Call, file_name: str) -> Answer:
    """Keep a file for another week."""
    if call.grid.cache.touch(file_name):
        return Answer(True)
    return Answer(False, f"ERROR : {file_name} not found")


@_module.call("POST")
def delete_cache_file(call: Call, file_name: str) -> Answer:
    """Remove a file."""
    if call.grid.cache.remove(file_name):
        return Answer(True)
    return Answer(False, f"ERROR : {file_name} not found")
