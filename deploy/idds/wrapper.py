"""Makes ``run_workflow_wrapper``, the transform that runs iDDS's functions on worker nodes.

iDDS ships the recipe and the parts, not the product (idds-workflow 2.6.21, tools/workflow/make/make.sh): a shell head
followed by a zip of libraries, configuration and scripts. The same is done here with the installed packages.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

NAME = "run_workflow_wrapper"
LIBRARIES = (
    "idds",
    "pandaclient",
    "pandatools",
    "tabulate",
    "requests",
    "urllib3",
    "argcomplete",
    "stomp",
    "websocket",
    "charset_normalizer",
    "idna",
    "certifi",
    "packaging",
    # What panda-client 2.2 has come to need.
    "httpx",
    "httpcore",
    "h11",
    "anyio",
    "exceptiongroup",
    "typing_extensions",
)
SCRIPTS = ("idds_parse_workflow_args", "run_workflow")


def build_wrapper(packages: Path, target: Path) -> None:
    """Write the wrapper.

    :param packages: folder that ``node-requirements.txt`` was installed into (``pip install --target``).
    :param target: the executable to write.
    """
    archive = target.with_name(f".{target.name}.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        for library in LIBRARIES:
            for path in _files(packages / library) or [packages / f"{library}.py"]:
                made.write(path, f"lib_py/{path.relative_to(packages)}")
        for path in _files(packages / "etc"):
            made.write(path, str(path.relative_to(packages)))
        for script in SCRIPTS:
            _, _, body = (packages / "bin" / script).read_text().partition("\n")
            # The installed script names the Python it was installed with; the node has its own.
            made.writestr(f"bin/{script}", f"#!/usr/bin/env python\n{body}")
    head = (packages / "tools/workflow/make/zipheader").read_bytes()
    scratch = target.with_name(f".{target.name}")
    scratch.write_bytes(head + archive.read_bytes())
    scratch.chmod(0o755)
    scratch.replace(target)
    archive.unlink()


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".pyc"]
