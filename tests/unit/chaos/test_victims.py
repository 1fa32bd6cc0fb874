"""Victims are told apart by the titles that Airflow gives its processes."""

import json
import subprocess
import sys
import time

import psutil
import pytest

from tests.chaos.victims import runner, workers_at_work

TASKS = [
    "airflow worker -- 01a21604-10a8-71d4-90fd-26e65af9da20",
    "airflow worker -- 01a21604-10be-77f3-a8ff-12f213b27385",
]
SUPERVISOR = "airflow worker -- LocalExecutor: "
TIMEOUT = 60


PROGRAM = """
import json, os, sys, time
from setproctitle import setproctitle

def start(title, under):
    if os.fork() == 0:
        setproctitle(title)
        for each in under:
            start(each, [])
        time.sleep(300)

for title, *under in json.loads(sys.argv[1]):
    start(title, under)
time.sleep(300)
"""


@pytest.fixture
def tree():
    """Start a process with children of given titles; what follows a title are the titles of that child's children."""
    started = []

    def start(*branches):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, json.dumps(branches)])
        started.append(process)
        end = time.monotonic() + TIMEOUT
        while _titled(process.pid) < sum(map(len, branches)):
            assert time.monotonic() < end
            time.sleep(0.02)
        return process.pid

    yield start
    for process in started:
        for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            each.kill()
        process.wait()


def _titled(pid):
    children = psutil.Process(pid).children(recursive=True)
    return sum(child.cmdline()[0].startswith("airflow") for child in children if child.cmdline())


def test_only_workers_that_have_begun_a_task_are_at_work(tree):
    scheduler = tree(
        (SUPERVISOR + "x", TASKS[0]),
        (SUPERVISOR + "y", TASKS[1]),
        (SUPERVISOR + "<idle>",),
        (SUPERVISOR + "z", SUPERVISOR + "z"),  # forked, and not begun
        ("airflow serve-logs",),
    )
    found = workers_at_work(scheduler)
    assert sorted(worker.task.cmdline()[0].strip() for worker in found) == sorted(TASKS)
    assert all(worker.task.ppid() == worker.supervisor.pid for worker in found)


def test_nobody_at_work(tree):
    assert workers_at_work(tree([SUPERVISOR + "<idle>"], ["airflow serve-logs"])) == []


def test_the_runner_is_not_the_one_that_serves_logs(tree):
    found = runner(tree(["airflow serve-logs"], ["airflow triggerer"]))
    assert found is not None
    assert found.cmdline()[0].strip() == "airflow triggerer"
    assert runner(tree(["airflow serve-logs"])) is None
