"""Makes the faults of a plan happen, each at its time, and undoes them."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import psutil

from tests.chaos import victims
from tests.chaos.installation import Installation, Part, session_of, signal_all
from tests.chaos.plan import Action, Fault
from tests.chaos.watch import Watch
from tests.stack import faulty_proxy

log = logging.getLogger(__name__)

DISTURBANCES: Final = {
    "panda-refuses": faulty_proxy.Fault(faulty_proxy.Kind.REFUSE),
    "panda-drops": faulty_proxy.Fault(faulty_proxy.Kind.DROP),
    "panda-loses-answers": faulty_proxy.Fault(faulty_proxy.Kind.LOSE),
    "panda-503": faulty_proxy.Fault(faulty_proxy.Kind.STATUS, status=503),
    "panda-late": faulty_proxy.Fault(faulty_proxy.Kind.LATE, delay=4.0),
}
"""What the proxy does at each kind of disturbance."""

FOLLOWS_WITHIN: Final = 60.0
"""Seconds in which a supervisor ends that has lost its runner."""


class Faults:
    """Carries out a plan, in a thread for each victim.

    :param installation: what is harmed.
    :param watch: told what is the suite's doing.
    :param plan: the faults.
    """

    def __init__(self, installation: Installation, watch: Watch, plan: Sequence[Fault]) -> None:
        self._installation, self._watch = installation, watch
        self._began = time.monotonic()
        self._stop = threading.Event()
        self.done: Counter[str] = Counter()
        """Faults that happened, by kind."""
        self.found_nothing: Counter[str] = Counter()
        """Faults that found no process to hit."""
        self.errors: list[str] = []
        """What the suite could not do or undo."""
        lanes: dict[str, list[Fault]] = {}
        for fault in plan:
            lanes.setdefault(fault.kind.victim, []).append(fault)
        self._threads = [
            threading.Thread(target=self._carry_out, args=(faults,), name=f"faults of {victim}", daemon=True)
            for victim, faults in lanes.items()
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all faults have been done and undone."""
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """Begin no further fault, cut the pauses short, and wait until what was done is undone."""
        self._stop.set()
        self.join()

    def _carry_out(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            if self._stop.wait(max(0.0, self._began + fault.at - time.monotonic())):
                return
            try:
                happened = self._one(fault)
            except Exception as error:
                log.exception("%s", fault.kind.name)
                self.errors.append(f"{fault.kind.name}: {error}")
            else:
                (self.done if happened else self.found_nothing)[fault.kind.name] += 1

    def _one(self, fault: Fault) -> bool:
        if fault.kind.victim == "worker":
            return self._hit_worker(fault)
        if fault.kind.action is Action.DISTURB:
            return self._disturb(fault)
        part = self._installation.parts[fault.kind.victim]
        with self._watch.ours(part.name):
            if fault.kind.action is Action.STALL:
                return self._stall(fault)
            return self._kill(fault, part)

    def _disturb(self, fault: Fault) -> bool:
        log.info("%s for %.1f s", fault.kind.name, fault.seconds)
        self._installation.way_to_panda.add(replace(DISTURBANCES[fault.kind.name], seconds=fault.seconds))
        self._stop.wait(fault.seconds)
        self._installation.way_to_panda.clear()
        return True

    def _hit_worker(self, fault: Fault) -> bool:
        if fault.kind.action is Action.STALL:
            return self._stall(fault)
        process = victims.find(fault, self._installation)
        if process is None:
            return False
        self._tell(fault, process)
        signal_all([process], signal.SIGKILL)
        return True

    def _stall(self, fault: Fault) -> bool:
        process = victims.find(fault, self._installation)
        if process is None:
            return False
        self._tell(fault, process)
        try:
            signal_all([process], signal.SIGSTOP)
            self._stop.wait(fault.seconds)
        finally:
            signal_all([process], signal.SIGCONT)
        return True

    def _kill(self, fault: Fault, part: Part) -> bool:
        process = victims.find(fault, self._installation)
        if process is None:
            return False
        self._tell(fault, process)
        # A node or a container goes with all that is in it; of a triggerer, each process also goes by itself.
        family = (
            session_of(process.pid) if fault.kind.victim in ("scheduler", "api-server", "idds-agents") else [process]
        )
        try:
            signal_all(family, signal.SIGKILL)
            if process.pid != part.pid():
                self._await_end(part)
            self._stop.wait(fault.seconds)
        finally:
            part.restart()
        return True

    def _await_end(self, part: Part) -> None:
        """Wait until a part has ended that lost a process it cannot be without."""
        end = time.monotonic() + FOLLOWS_WITHIN
        while part.alive():
            if time.monotonic() > end:
                raise RuntimeError(f"{part.name} goes on without the process that was killed")
            time.sleep(0.1)

    def _tell(self, fault: Fault, process: psutil.Process) -> None:
        title = ""
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline()).strip()[-60:]
        log.info("%s for %.1f s: process %d, %s", fault.kind.name, fault.seconds, process.pid, title)
