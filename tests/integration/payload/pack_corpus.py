"""Packs every function of the corpus with the interpreter that runs this, into the folder given as argument.

The corpus is imported under a made-up name, as Airflow imports DAG files; one function is of ``__main__``.
"""

import importlib.util
import json
import math
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # as the folder of DAG files is

from corpus_types import Case  # noqa: E402

from airflow_provider_panda.payload import values  # noqa: E402
from airflow_provider_panda.payload.package import build_archive  # noqa: E402

SCALE = 3


def main_helper(x):
    return math.floor(x * SCALE)


def of_main(x):
    return main_helper(x) + 1


def load(name):
    """Import a file of the corpus as Airflow imports a DAG file."""
    made_up = f"unusual_prefix_0123456789abcdef_{name}"
    if made_up in sys.modules:
        return sys.modules[made_up]
    spec = importlib.util.spec_from_file_location(made_up, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[made_up] = module
    spec.loader.exec_module(module)
    return module


def all_cases():
    """Return the cases that this interpreter can read."""
    found = list(load("corpus").cases())
    if sys.version_info >= (3, 12):
        found += load("corpus_new_syntax").cases()
    found.append(Case(name="main_module", function=of_main, args=(1.5,), expected=5))
    return found


def main(target):
    """Write one archive per case and ``index.json``: name -> form and what it has to give, or the error."""
    index = {}
    for case in all_cases():
        try:
            archive = build_archive(case.function, args=case.args, kwargs=case.kwargs)
        except Exception as error:
            index[case.name] = {"error": f"{type(error).__name__}: {error}"}
            continue
        again = build_archive(case.function, args=case.args, kwargs=case.kwargs)
        index[case.name] = {
            "form": archive.form,
            "same": archive.sha256 == again.sha256,
            "value": values.dumps(case.expected),
            "needs": case.needs,
        }
        (target / f"{case.name}.tar.gz").write_bytes(archive.content)
    (target / "index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
