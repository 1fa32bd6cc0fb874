"""When to try again, when to send a heart-beat, and when silence means that the broker is gone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

FIRST_DELAY: Final = 0.25
LONGEST_DELAY: Final = 10.0

SILENT_HEARTBEATS: Final = 2
"""After so many heart-beats that did not come, the broker counts as gone."""

_SLOWEST: Final = 6
"""A broker that wants to beat this many times slower than asked for is asked by probes instead."""


def backoff(
    first: float = FIRST_DELAY, longest: float = LONGEST_DELAY, rng: Callable[[], float] = random.random
) -> Iterator[float]:
    """Yield delays in seconds that double up to ``longest``, each spread over 50-100 % of itself.

    >>> delays = backoff(1.0, 5.0, rng=lambda: 1.0)
    >>> [next(delays) for _ in range(4)]
    [1.0, 2.0, 4.0, 5.0]
    """
    delay = first
    while True:
        yield delay * (0.5 + 0.5 * rng())
        delay = min(delay * 2, longest)


@dataclass(frozen=True, slots=True)
class HeartBeats:
    """What two sides agreed on.

    :param send_every: seconds between heart-beats of ours.
    :param expect_every: seconds in which the broker sends something; when ``probe``, because we ask it to.
    :param probe: whether the broker promised no heart-beats, so that it has to be asked for a receipt.
    """

    send_every: float
    expect_every: float
    probe: bool

    @property
    def silence(self) -> float:
        """Seconds without a byte after which the broker counts as gone."""
        return SILENT_HEARTBEATS * self.expect_every


def agree(interval: float, answer: str | None) -> HeartBeats:
    """Return what our wish and the ``heart-beat`` header of CONNECTED come to (STOMP 1.2, "Heart-beating").

    Heart-beats of ours are sent whatever the broker says: an end-of-line more harms nobody, and brokers that said
    0,0 have dropped silent clients (facts/peers.md section 8).

    :param interval: seconds between heart-beats that we asked for, in each direction.
    :param answer: the header, ``<milliseconds it sends>,<milliseconds it wants>``, or None.
    """
    sends, wants = _milliseconds(answer)
    send_every = interval if wants == 0 else min(max(interval, wants / 1000), _SLOWEST * interval)
    if sends == 0 or sends / 1000 > _SLOWEST * interval:
        return HeartBeats(send_every, interval, probe=True)
    return HeartBeats(send_every, max(interval, sends / 1000), probe=False)


def _milliseconds(answer: str | None) -> tuple[int, int]:
    parts = (answer or "").replace(" ", "").split(",")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 12 for part in parts):
        return 0, 0
    return int(parts[0]), int(parts[1])


class Pulse:
    """The times of one connection, and what they call for. It reads no clock of its own.

    :param beats: what was agreed on.
    :param now: present time, ``time.monotonic()``.
    """

    __slots__ = ("beats", "probed", "received", "sent")

    def __init__(self, beats: HeartBeats, now: float) -> None:
        self.beats = beats
        self.sent = self.received = self.probed = now

    def beat_due(self, now: float) -> bool:
        """Whether it is time to send a heart-beat; a tenth early, for the broker measures too."""
        return now >= self.sent + 0.9 * self.beats.send_every

    def probe_due(self, now: float) -> bool:
        """Whether a broker without heart-beats has to be asked for a sign of life."""
        return self.beats.probe and now >= max(self.received, self.probed) + self.beats.expect_every

    def silent(self, now: float) -> bool:
        """Whether the broker was silent for too long."""
        return now > self.received + self.beats.silence

    def until_next(self, now: float) -> float:
        """Return the seconds until one of the above may become true, at least 0."""
        due = [self.sent + 0.9 * self.beats.send_every, self.received + self.beats.silence]
        if self.beats.probe:
            due.append(max(self.received, self.probed) + self.beats.expect_every)
        return max(0.0, min(due) - now)
