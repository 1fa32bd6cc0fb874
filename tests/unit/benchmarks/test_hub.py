"""The rules of the hub's benchmark: which task each message is of, what a percentile is, what is compared."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter

import pytest

from airflow_provider_panda.payload.publish import decode_frame
from airflow_provider_panda.payload.result import read_body
from benchmarks.hub import TARGETS, arguments, rate_figures
from benchmarks.hub_receiver import DESTINATION, Order, key_of, signing_key_of
from benchmarks.hub_turns import Turn, Way, frame_of, frames_for, percentile, spread_over


def turns(*rates: float) -> list[Turn]:
    return [Turn(rate=rate, cpu=1 / rate, published=50_000.0) for rate in rates]


def test_a_percentile_is_one_of_the_figures() -> None:
    figures = [float(figure) for figure in range(100, 0, -1)]
    assert percentile(figures, 0.5) == 50.0
    assert percentile(figures, 0.99) == 99.0
    assert percentile(figures, 1.0) == 100.0
    assert percentile([7.0], 0.99) == 7.0


@pytest.mark.parametrize(("messages", "keys"), [(300, 100), (1000, 300), (300, 300)])
def test_messages_are_spread_over_all_tasks_evenly_and_without_pattern(messages: int, keys: int) -> None:
    of = spread_over(messages, keys)
    counts = Counter(of)
    assert len(of) == messages
    assert set(counts) == set(range(keys))
    assert max(counts.values()) - min(counts.values()) <= 1
    assert of != sorted(of)
    assert of == spread_over(messages, keys), "every turn is of the same messages"


def test_fewer_messages_than_tasks_are_of_tasks_from_first_to_last() -> None:
    of = spread_over(100, 50_000)
    assert len(set(of)) == 100
    assert min(of) == 0
    assert max(of) == 49_500


def test_a_message_is_a_result_as_a_runner_signs_it() -> None:
    frame = frame_of(key_of(3), signing_key_of(3), 5, {"auc": 0.5})
    decoded = decode_frame(frame)
    assert decoded is not None
    command, headers, body = decoded
    assert (command, headers["destination"], headers["internal_id"]) == ("SEND", DESTINATION, key_of(3))
    assert int(headers["content-length"]) == len(body)
    result = read_body(body, key=signing_key_of(3), task_key=key_of(3))
    assert (result.job, result.payload) == (5, {"auc": 0.5})
    assert frames_for(7, 2).count(b"\0") == 7, "no frame has another end than its own"


def test_an_order_is_the_same_after_its_way_to_the_receiver() -> None:
    order = Order(way="hub", host="h", port=1, login="l", passcode="secret", keys=2, messages=3, stamped=True)
    assert Order(**json.loads(json.dumps(dataclasses.asdict(order)))) == order
    assert "secret" not in repr(order)


def test_ratios_are_of_medians_at_the_compared_and_at_the_outer_numbers_of_tasks() -> None:
    bare, hubs = Way("stomp", 1000), [Way("hub", 100), Way("hub", 1000), Way("hub", 50_000)]
    taken = {
        bare: turns(100.0, 200.0, 900.0),
        hubs[0]: turns(300.0, 400.0, 500.0),
        hubs[1]: turns(10.0, 150.0, 160.0),
        hubs[2]: turns(380.0, 360.0, 320.0),
    }
    figures = rate_figures(taken, bare, hubs)
    assert figures["rate_vs_bare"] == 0.75
    assert figures["cpu_vs_bare"] == 1.333
    assert figures["rate_50000_vs_100"] == 0.9
    assert figures["rates"] == {"stomp": 200, "hub_100": 400, "hub_1000": 150, "hub_50000": 360}
    assert figures["rates_min_max"]["hub_1000"] == [10, 160]


def test_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["hub.py"])
    asked = arguments()
    assert (asked.keys, asked.rounds, asked.no_idds) == ([100, 1000, 10_000, 50_000], 5, False)
    monkeypatch.setattr(sys, "argv", ["hub.py", "--keys", "5", "7", "--messages", "20", "--rounds", "1", "--no-idds"])
    asked = arguments()
    assert (asked.keys, asked.messages, asked.rounds, asked.no_idds) == ([5, 7], 20, 1, True)


def test_what_is_aimed_at() -> None:
    limits = {target.key: (target.limit, target.at_least) for target in TARGETS}
    assert limits == {
        "rate_vs_bare": (0.7, True),
        "rate_50000_vs_100": (0.85, True),
        "p99_ms": (50, False),
        "bytes_per_key": (2048, False),
        "connections": (1, False),
    }
