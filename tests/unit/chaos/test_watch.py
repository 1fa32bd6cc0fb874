"""A process that ends without the suite's doing is told and started again; what the suite does is not told."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.chaos.installation import Part
from tests.chaos.watch import Watch

TIMEOUT = 60


class Sleeper:
    """A process that does nothing, as a part of an installation."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "sleeper.log"
        self.log.write_text("last words\n")
        self.starts = 0
        self.process: subprocess.Popen[bytes]
        self.start()
        self.part = Part(name="sleeper", pid=lambda: self.process.pid, restart=self.restart, log=self.log)

    def start(self) -> None:
        self.process = subprocess.Popen(["sleep", "300"])
        self.starts += 1

    def restart(self) -> None:
        self.process.wait()
        self.start()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def sleeper(tmp_path):
    made = Sleeper(tmp_path)
    yield made
    made.end()


def wait_for(condition):
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_death_is_told_and_the_process_is_started_again(sleeper):
    watch = Watch({"sleeper": sleeper.part})
    try:
        sleeper.process.kill()
        wait_for(lambda: sleeper.starts == 2)
        wait_for(sleeper.part.alive)
    finally:
        watch.close()
    assert [(death.part, death.tail) for death in watch.deaths] == [("sleeper", "last words")]
    assert watch.errors == []


def test_what_the_suite_kills_is_no_death(sleeper):
    watch = Watch({"sleeper": sleeper.part})
    try:
        with watch.ours("sleeper"):
            sleeper.process.kill()
            sleeper.process.wait()
            time.sleep(1.2)  # two looks
            sleeper.restart()
        wait_for(sleeper.part.alive)
    finally:
        watch.close()
    assert watch.deaths == []
    assert sleeper.starts == 2


def test_what_cannot_be_started_again_is_told(sleeper):
    def fail() -> None:
        sleeper.process.wait()
        raise RuntimeError("no port")

    part = Part(name="sleeper", pid=lambda: sleeper.process.pid, restart=fail, log=sleeper.log)
    watch = Watch({"sleeper": part})
    try:
        sleeper.process.kill()
        wait_for(lambda: watch.errors)
    finally:
        watch.close()
    assert "no port" in watch.errors[0]
