"""The transform of iDDS's functions is made of the installed packages."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from deploy.idds.wrapper import LIBRARIES, SCRIPTS, build_wrapper


def test_it_is_a_shell_head_with_a_zip_of_the_parts(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    for name in LIBRARIES[:-1]:
        (packages / name / "deeper" / "__pycache__").mkdir(parents=True)
        (packages / name / "deeper" / "code.py").write_text(name)
        (packages / name / "deeper" / "__pycache__" / "code.pyc").write_text(name)
    (packages / f"{LIBRARIES[-1]}.py").write_text("one file")
    (packages / "etc").mkdir()
    (packages / "etc/idds.cfg").write_text("[common]")
    (packages / "bin").mkdir()
    for name in SCRIPTS:
        (packages / "bin" / name).write_text("#!/some/python\nprint()\n")
    make = packages / "tools/workflow/make"
    make.mkdir(parents=True)
    (make / "zipheader").write_text("#!/bin/bash\nunzip $0\n")
    target = tmp_path / "run_workflow_wrapper"

    build_wrapper(packages, target)

    assert os.access(target, os.X_OK)
    assert target.read_bytes().startswith(b"#!/bin/bash\nunzip $0\n")
    with zipfile.ZipFile(target) as made:
        names = set(made.namelist())
        assert f"lib_py/{LIBRARIES[0]}/deeper/code.py" in names
        assert f"lib_py/{LIBRARIES[-1]}.py" in names
        assert "etc/idds.cfg" in names
        assert not [name for name in names if name.endswith(".pyc")]
        for name in SCRIPTS:
            assert made.read(f"bin/{name}") == b"#!/usr/bin/env python\nprint()\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packages", "run_workflow_wrapper"]
