"""The rules of the iDDS benchmark: which stage is between which stamps, what is compared, what the wrapper notes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.idds_overhead import STAGES, TARGETS, Stamps, ratio, stamped, table

WRAPPER = b'#!/bin/bash\nnew_command="echo running"\n# eval $cmd\neval $new_command\nret=$?\nexit $ret\nPK\x03\x04\xff'
STAMPS = Stamps(
    began=100.0, submitted=101.0, started=103.0, handed_over=106.0, first_line=110.0, last_line=115.0, arrived=121.0
)


def test_each_stage_is_between_its_stamps() -> None:
    assert STAMPS.seconds() == {
        "submit": 1.0, "services": 2.0, "wrapper": 3.0, "before": 4.0, "after": 6.0, "end_to_end": 21.0,
    }  # fmt: skip
    assert list(STAMPS.seconds()) == list(STAGES)


def test_the_stages_and_the_function_are_the_whole() -> None:
    seconds = STAMPS.seconds()
    function = STAMPS.last_line - STAMPS.first_line
    assert sum(seconds.values()) - seconds["end_to_end"] + function == seconds["end_to_end"]


def test_the_wrapper_notes_its_beginning_and_the_hand_over(tmp_path: Path) -> None:
    file, wrapper = tmp_path / "the stamps", tmp_path / "wrapper"
    wrapper.write_bytes(stamped(WRAPPER, file))
    wrapper.chmod(0o755)

    done = subprocess.run([str(wrapper)], capture_output=True, text=True, check=False, timeout=60)

    assert (done.returncode, done.stdout) == (0, "running\n")
    noted = [line.split() for line in file.read_text().splitlines()]
    assert [name for name, _ in noted] == ["started", "handed_over"]
    assert float(noted[0][1]) <= float(noted[1][1])
    assert wrapper.read_bytes().endswith(WRAPPER[-5:])


@pytest.mark.parametrize(
    "other",
    [
        WRAPPER.replace(b"\neval $new_command\n", b"\nexec $new_command\n"),
        WRAPPER.replace(b"#!/bin/bash\n", b"#!/bin/sh\n"),
        WRAPPER + b"\neval $new_command\n",
    ],
)
def test_another_wrapper_is_refused(other: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2\.6\.21"):
        stamped(other, tmp_path / "stamps")


def test_a_ratio_is_of_medians_and_says_how_many_times_faster_ours_is() -> None:
    of = {"ours": [1.0, 2.0, 90.0], "theirs": [10.0, 20.0, 30.0]}
    assert ratio(of) == 10.0
    assert ratio(of, more={"ours": 3.0, "theirs": 5.0}) == 5.0


def test_the_table_shows_targets_beside_ratios() -> None:
    seconds = {
        "ours": {stage: [0.5, 1.0, 2.0] for stage in STAGES},
        "theirs": {stage: [3.0, 4.0, 5.0] for stage in STAGES},
    }
    lines = list(table({"ours": 0.25, "theirs": 0.5}, seconds, {"floor": [0.02]}))

    (whole,) = [line for line in lines if line.startswith("END TO END")]
    assert "1000.0 (500.0-2000.0)" in whole
    assert "4000.0 (3000.0-5000.0)" in whole
    assert whole.split()[-3:] == ["4.0", ">=", "3"]
    assert sum(">=" in line for line in lines) == len(TARGETS)
    assert lines[-1].split() == ["floor", "20.0", "(20.0-20.0)"]
