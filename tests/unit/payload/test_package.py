"""What can be shipped is, the same way each time; what cannot is refused, naming variable, file and line."""

from __future__ import annotations

import ast
import functools
import inspect
import io
import json
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from airflow_provider_panda.exceptions import ConfigurationError, MissingModuleError, PackagingError
from airflow_provider_panda.payload import package
from airflow_provider_panda.payload.package import Archive, Delivery, build_archive, check_function

SHIPPED = [*package.RUNNER_FILES, "bootstrap.py"]


def members(archive: Archive) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar.getmembers()}  # type: ignore[union-attr]


def plain(x: Any = None, **more: Any) -> Any:
    return x


def line_of(function: Any, text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if text in line)


@pytest.mark.parametrize(
    ("name", "variable", "at"),
    [("uses_lock", "LOCK", "with LOCK"), ("uses_table", "TABLE", None), ("closes_over_lock", "gate", "with gate")],
)
def test_what_cannot_travel_is_named_with_its_line(bad: ModuleType, name: str, variable: str, at: str | None) -> None:
    function = getattr(bad, name)
    target = function() if name == "closes_over_lock" else function
    with pytest.raises(PackagingError) as caught:
        build_archive(target, serializer="source")
    error = caught.value
    assert f"variable {variable!r}" in str(error)
    assert error.filename is not None
    assert error.filename.endswith("bad_functions.py")
    assert error.line == line_of(bad.helper_of_table if at is None else function, at or 'TABLE["good"]')


def test_auto_shows_both_reasons(bad: ModuleType) -> None:
    with pytest.raises(PackagingError) as caught:
        build_archive(bad.uses_lock, kwargs={"x": 1})
    assert "as source: variable 'LOCK'" in str(caught.value)
    assert "as cloudpickle: the function cannot be pickled" in str(caught.value)


def test_auto_falls_back_to_cloudpickle(bad: ModuleType) -> None:
    assert build_archive(bad.stateful).form == "cloudpickle"
    with pytest.raises(PackagingError, match="GENERATOR"):
        build_archive(bad.stateful, serializer="source")


@pytest.mark.parametrize("serializer", ["auto", "source", "cloudpickle"])
@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("imports_side", "side_module"),
        ("imports_side_inside", "side_module"),
        ("imports_package", "side_package"),
        ("imports_needs_side", "needs_side"),
    ],
)
def test_a_module_beside_the_dag_file_has_to_be_included(
    bad: ModuleType, name: str, module: str, serializer: package.Serializer
) -> None:
    with pytest.raises(MissingModuleError) as caught:
        build_archive(getattr(bad, name), serializer=serializer)
    assert caught.value.module == module
    assert f"include=[{module!r}]" in str(caught.value)
    assert caught.value.line is not None


def test_an_unknown_import_inside_is_refused_with_its_line(bad: ModuleType) -> None:
    with pytest.raises(MissingModuleError) as caught:
        build_archive(bad.imports_nowhere)
    assert caught.value.line == line_of(bad.imports_nowhere, "import surely")


def test_what_an_included_module_imports_has_to_be_included_too(bad: ModuleType) -> None:
    with pytest.raises(MissingModuleError, match="side_module"):
        build_archive(bad.imports_needs_side, include=["needs_side"])
    archive = build_archive(bad.imports_needs_side, include=["needs_side", "side_module"])
    assert {"modules/needs_side.py", "modules/side_module.py"} <= set(members(archive))


@pytest.mark.parametrize("how", ["name", "module", "path", "relative"])
def test_ways_to_include(bad: ModuleType, how: str) -> None:
    folder = Path(bad.__file__ or "").parent
    entries: dict[str, Any] = {
        "name": "side_package",
        "module": bad.needs_side.side_module,
        "path": folder / "side_package",
        "relative": "./side_package",
    }
    names = set(
        members(build_archive(plain, include=[entries[how]] if how != "relative" else [folder / "side_package"]))
    )
    wanted = (
        {"modules/side_module.py"}
        if how == "module"
        else {"modules/side_package/__init__.py", "modules/side_package/part.py"}
    )
    assert wanted <= names
    assert not any("__pycache__" in name for name in names)


@pytest.mark.parametrize("entry", ["surely_not_installed_anywhere", "./nothing.py", Path("/nowhere/x"), "itertools"])
def test_include_that_names_nothing(entry: Any) -> None:
    with pytest.raises(PackagingError, match="include="):
        build_archive(plain, include=[entry])


@pytest.mark.parametrize("name", ["coroutine", "generator"])
def test_functions_that_no_grid_job_can_run(bad: ModuleType, name: str) -> None:
    for refuse in (build_archive, check_function):
        with pytest.raises(PackagingError, match=r"async|generator"):
            refuse(getattr(bad, name))


def test_lambda_with_source_is_refused() -> None:
    for refuse in (build_archive, check_function):
        with pytest.raises(PackagingError, match="lambda has no source form"):
            refuse(lambda x: x, serializer="source")


def test_map_over_of_an_unknown_argument() -> None:
    def function(x: int, *, y: int = 0) -> int:
        return x + y

    check_function(function, map_over=["x", "y"])
    with pytest.raises(ConfigurationError, match="Its arguments are: x, y"):
        check_function(function, map_over=["z"])
    check_function(plain, map_over=["anything"])
    check_function(functools.partial(function, y=1), map_over=["x"])


@pytest.mark.parametrize(
    "options", [{"serializer": "dill"}, {"value_format": "xml"}, {"per_job": []}], ids=lambda value: next(iter(value))
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        build_archive(plain, **options)


def test_arguments_that_cannot_travel_are_named() -> None:
    with pytest.raises(PackagingError, match=r"argument 'x' of job 1\.a\[0\]: a value of type object"):
        build_archive(plain, per_job=[{"x": 1}, {"x": {"a": [object()]}}], serializer="source")


def test_same_call_same_bytes() -> None:
    one = build_archive(plain, kwargs={"x": {"b", "a", "c"}}, per_job=[{"i": i} for i in range(5)])
    two = build_archive(plain, kwargs={"x": {"c", "b", "a"}}, per_job=[{"i": i} for i in range(5)])
    assert one == two
    assert one.name == f"sources.{one.sha256}.tar.gz"
    assert build_archive(plain, kwargs={"x": {"a"}}).sha256 != one.sha256


def test_ten_thousand_jobs_stay_small() -> None:
    jobs = [{"x": i} for i in range(10_000)]
    alone = build_archive(plain, per_job=jobs[:1])
    archive = build_archive(plain, per_job=jobs)
    files = members(archive)
    own = sum(len(json.dumps(job)) for job in jobs)
    assert archive.n_jobs == 10_000
    assert sum(map(len, files.values())) - sum(map(len, members(alone).values())) <= own + 200 * len(jobs)
    assert json.loads(files["jobs.jsonl"].splitlines()[1234]) == {"x": 1234}


def test_delivery_travels_only_when_asked_for() -> None:
    assert "delivery.json" not in members(build_archive(plain))
    delivery = Delivery(signing_key=b"k" * 32, broker={"addresses": [["b", 1]], "passcode": "secret-word"})
    assert "secret-word" not in repr(delivery)
    packed = json.loads(members(build_archive(plain, delivery=delivery))["delivery.json"])
    assert packed["signing_key"] == (b"k" * 32).hex()
    assert packed["broker"]["passcode"] == "secret-word"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_python_3_9_and_import_the_standard_library_only(name: str) -> None:
    import sys

    text = (Path(package.__file__).parent / name).read_text()
    tree = ast.parse(text, feature_version=(3, 6) if name == "bootstrap.py" else (3, 9))
    late = {"numpy", "pandas", "cloudpickle"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            roots = {(node.module or "").partition(".")[0]}
        else:
            continue
        assert roots <= set(sys.stdlib_module_names) | {"_sha2"} | late  # new in 3.12, and imported if it is there


def test_real_airflow_decorators_are_taken_off(tmp_path: Path) -> None:
    """In a process of its own: importing Airflow is slow and leaves traces."""
    import os
    import subprocess
    import sys

    pytest.importorskip("airflow.sdk")
    (tmp_path / "dag_file.py").write_text(
        "from airflow.sdk import dag, task\n"
        "@task\ndef other(x):\n    return x + 1\n"
        "@task.python(multiple_outputs=False)\ndef function(x):\n    return other.function(x) * 2\n"
        "@dag\ndef flow():\n    factor = 3\n    @task\n    def inner(x):\n        return x * factor\n    return inner\n"
    )
    (tmp_path / "pack.py").write_text(
        "import sys, dag_file\n"
        "from airflow_provider_panda.payload.package import build_archive\n"
        "from airflow_provider_panda.payload.local_run import run_archive\n"
        "for one in (dag_file.function, dag_file.flow.__wrapped__()):\n"
        "    done = run_archive(build_archive(one, args=(4,), serializer='source').content, python=sys.executable)\n"
        "    print('value', done.value, done.report)\n"
    )
    done = subprocess.run(
        [sys.executable, "pack.py"],
        cwd=tmp_path,
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("value")] == ["10", "12"], done
