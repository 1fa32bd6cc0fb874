"""A folder of DAG files, importable as Airflow makes it: on ``sys.path``, with a made-up name for the DAG file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent / "dagfolder"
BESIDE = ("side_module", "side_package", "side_package.part", "needs_side")


@pytest.fixture(scope="session")
def bad() -> Iterator[ModuleType]:
    """The module of functions that end badly."""
    sys.path.insert(0, str(FOLDER))
    name = "unusual_prefix_0123_bad_functions"
    spec = importlib.util.spec_from_file_location(name, FOLDER / "bad_functions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))
    for one in (name, *BESIDE):
        sys.modules.pop(one, None)
