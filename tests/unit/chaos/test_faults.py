"""Faults happen to the process that they name, are undone, and are none of the deaths that the watch tells."""

import contextlib
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.chaos.faults import DISTURBANCES, Faults
from tests.chaos.installation import Installation, Part
from tests.chaos.plan import ALL_KINDS, Fault
from tests.chaos.watch import Watch

TIMEOUT = 60


class Service:
    """A process with a child, which it does not outlive: as a triggerer and its runner."""

    def __init__(self, name: str, folder: Path) -> None:
        self.pids: list[int] = []
        log = folder / f"{name}.log"
        log.write_text("")
        self.start()
        self.part = Part(name=name, pid=lambda: self.process.pid, restart=self.restart, log=log)

    def start(self) -> None:
        self.process = subprocess.Popen(["bash", "-c", "sleep 300; exit 1"], start_new_session=True)
        self.pids.append(self.process.pid)

    def restart(self) -> None:
        self.end()
        self.start()

    def end(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                child.kill()
        self.process.kill()
        self.process.wait()

    def state(self) -> str:
        return str(psutil.Process(self.process.pid).status())


class Proxy:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def add(self, fault: Any) -> None:
        self.calls.append(fault)

    def clear(self) -> None:
        self.calls.append("clear")


class Scene:
    def __init__(self, folder: Path) -> None:
        self.broker, self.triggerer, self.proxy = Service("broker", folder), Service("triggerer", folder), Proxy()
        parts = {service.part.name: service.part for service in (self.broker, self.triggerer)}
        nothing: Any = None
        way: Any = self.proxy
        self.installation = Installation(
            airflow=nothing, grid=nothing, broker=nothing, way_to_panda=way, parts=parts, folder=folder
        )
        self.watch = Watch(parts)

    def begin(self, kind: str, *, seconds: float, at: float = 0.0) -> Faults:
        return Faults(self.installation, self.watch, [Fault(at=at, kind=ALL_KINDS[kind], seconds=seconds, draw=0.0)])

    def close(self) -> None:
        self.watch.close()
        self.broker.end()
        self.triggerer.end()


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    made.close()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_is_killed_is_started_again_and_is_no_death(scene):
    faults = scene.begin("broker-kill", seconds=1.2)
    faults.join()
    assert len(scene.broker.pids) == 2
    assert scene.broker.part.alive()
    assert scene.watch.deaths == []
    assert (dict(faults.done), faults.errors) == ({"broker-kill": 1}, [])


def test_who_loses_its_runner_ends_by_itself_and_is_started_again(scene):
    faults = scene.begin("runner-kill", seconds=0)
    faults.join()
    assert len(scene.triggerer.pids) == 2
    assert scene.watch.deaths == []
    assert dict(faults.done) == {"runner-kill": 1}


def test_what_is_stalled_goes_on_when_the_run_is_cut_short(scene):
    faults = scene.begin("broker-stall", seconds=200)
    wait_for(lambda: scene.broker.state() == psutil.STATUS_STOPPED)
    faults.close()
    wait_for(lambda: scene.broker.state() != psutil.STATUS_STOPPED)
    assert len(scene.broker.pids) == 1
    assert dict(faults.done) == {"broker-stall": 1}


def test_a_disturbance_is_switched_on_and_off(scene):
    faults = scene.begin("panda-503", seconds=0.1)
    faults.join()
    assert scene.proxy.calls == [replace(DISTURBANCES["panda-503"], seconds=0.1), "clear"]


def test_a_fault_whose_time_has_not_come_does_not_happen(scene):
    faults = scene.begin("broker-kill", seconds=0, at=300)
    faults.close()
    assert (len(scene.broker.pids), dict(faults.done)) == (1, {})


def test_what_cannot_be_started_again_is_told(scene):
    def fail() -> None:
        scene.broker.restart()
        raise RuntimeError("no port")

    scene.installation.parts["broker"] = replace(scene.broker.part, restart=fail)
    faults = scene.begin("broker-kill", seconds=0)
    faults.join()
    assert faults.errors == ["broker-kill: no port"]
    assert dict(faults.done) == {}
