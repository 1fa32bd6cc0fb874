"""Messages of somebody who may publish on the result destination and means harm: drawn from a few numbers, repeatably.

Every family is told by its name in :data:`FAMILIES`. None but ``SIGNED`` carries a signature that holds for the task
that it names, so that nothing of what the others sign may ever be decoded.
"""

from __future__ import annotations

import base64
import json
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from airflow_provider_panda.payload import envelope

MARK: Final = "never-decode-this"
"""Stands in every text whose signature does not hold."""


class _Bomb:
    """Unpickling it is the harm."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


PICKLES: Final = [pickle.dumps(_Bomb(), protocol) for protocol in (0, 2, 4)]

# As idds 2.6.21 and PanDA publish them (captured on real services, shortened).
CAPTURED: Final = [
    {
        "msg_type": "health_heartbeat",
        "agents": [
            {
                "pid": 28419,
                "agent": "Clerk",
                "payload": '{"num_hang_workers": 0, "num_active_workers": 0}',
                "status": {
                    "class": "HealthStatus",
                    "module": "idds.common.constants",
                    "attributes": {"_value_": 0, "_name_": "Default", "_sort_order_": 0, "_loading": False},
                },
            }
        ],
    },
    {
        "ret": [True, "3", None, {"start_time": 1795368856.1, "end_time": 1795368857.1}],
        "name": "idds.work:f",
        "key": "WyJqMCJd",
        "internal_id": "a1b2c3d4",
        "type": "iwork",
        "request_id": 7,
        "transform_id": 11,
    },
    {"msg_type": "task_status", "taskid": 1, "status": "defined", "timestamp": 1795368856},
    {
        "msg_type": "job_status",
        "taskid": 1,
        "jobid": 2,
        "status": "finished",
        "computingsite": "LOCAL_TEST",
        "inputs": ["pseudo_lfn"],
        "piloterrorcode": "NULL",
        "timestamp": 1795368857,
    },
]

CLASSES: Final = [
    {"class": "system", "module": "os", "attributes": {"command": "true"}},
    {"__class__": "os.system", "__module__": "posix"},
    {"class": "Popen", "module": "subprocess", "attributes": {"args": ["true"]}},
    {"py/object": "os.system"},
    {"__type__": "pickle", "__data__": base64.b64encode(PICKLES[0]).decode()},
    {"$type": "dataclass", "class": "subprocess.Popen", "state": {"args": "true"}},
    {"__classname__": "airflow.models.Connection", "__version__": 1, "__data__": {"conn_id": "x"}},
]

WRONG: Final[list[Any]] = [
    None, True, False, 0, -1, 1.5, 10**300, -(10**4000), "", "1", "\ud800", "\0", [], {}, [[]], {"": {}},
    float("nan"), float("inf"), -float("inf"), 1e308, 2**63, "x" * 3000, ["a"] * 500, {"a": {"b": {"c": []}}},
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """A task that somebody waits for.

    :param key: its task key.
    :param signing_key: its signing key.
    """

    key: str
    signing_key: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it goes onto the wire.

    :param head: header lines after those of the broker, escaped or not.
    :param body: the body.
    :param family: which of :data:`FAMILIES`.
    """

    head: bytes
    body: bytes
    family: str


def report_of(target: Target, **changed: Any) -> dict[str, Any]:
    """Return the report of a job that returned."""
    report = {
        "task_key": target.key, "job": 0, "attempt": 1, "status": envelope.RETURNED, "encoding": "json",
        "payload": MARK, "exception": None, "start": 1.0, "end": 2.0, "host": "wn1", "site": "LOCAL", "panda_id": 5,
        "python": "3.11.7",
    }  # fmt: skip
    return {**report, **changed}


def genuine(target: Target, payload: Any) -> Message:
    """Return the message that a runner sends."""
    report = report_of(target, payload=payload)
    headers, body = envelope.message(report, envelope.sign(report, target.signing_key), name="f")
    return Message(_lines(headers), body.encode(), "genuine")


def _lines(headers: dict[str, str]) -> bytes:
    return "".join(f"{name}:{value}\n" for name, value in headers.items()).encode()


class Forger:
    """Makes hostile messages.

    :param seed: everything follows from it, and from what ``draw`` is given.
    :param targets: tasks that are waited for.
    :param seasoning: bytes that are put into messages here and there.
    :param tree: a JSON value that takes the place of fields.
    """

    def __init__(self, seed: int, targets: list[Target], *, seasoning: bytes = b"", tree: Any = None) -> None:
        self.rng = random.Random(seed)
        self._targets, self._seasoning, self._tree = targets, seasoning, tree

    def draw(self, family: str) -> Message:
        """Return a message of a family."""
        target = self.rng.choice(self._targets)
        head, body = FAMILIES[family](self, target)
        return Message(head, body, family)

    # --- pieces ---------------------------------------------------------------------------------------------

    def _head(self, target: Target, **changed: str) -> bytes:
        headers = {"channel": "airflow-panda", "type": "iwork", "internal_id": target.key, "persistent": "true"}
        return _lines({**headers, **changed})

    def _forged(self, target: Target, **changed: Any) -> dict[str, Any]:
        """Return a body in our form, signed by a key that is not the task's."""
        report = report_of(target, **changed)
        try:
            signed = envelope.sign(report, self.rng.randbytes(32))
        except ValueError:  # NaN and infinity, which our own writer refuses
            signed = {"version": envelope.VERSION, "signed": json.dumps(report), "signature": "00" * 32}
        return {
            "ret": [True, None, None, {}], "name": "f", "key": "0", "internal_id": target.key, "type": "iwork",
            "request_id": None, "transform_id": None, envelope.BODY_KEY: signed,
        }  # fmt: skip

    def _value(self) -> Any:
        pick = self.rng.randrange(4)
        if pick == 0:
            return self._tree
        return self.rng.choice(WRONG if pick > 1 else CLASSES)

    def _dumps(self, value: Any) -> bytes:
        return json.dumps(value, separators=(",", ":")).encode()

    # --- families -------------------------------------------------------------------------------------------

    def forged(self, target: Target) -> tuple[bytes, bytes]:
        """Well-formed, with another key's signature, or the task's own over another text."""
        body = self._forged(target, payload=[MARK, self._value()], job=self.rng.randrange(3))
        signed = body[envelope.BODY_KEY]
        pick = self.rng.randrange(4)
        if pick == 0:
            other = genuine(self.rng.choice(self._targets), "another text")
            signed["signature"] = json.loads(other.body)[envelope.BODY_KEY]["signature"]
        elif pick == 1:
            signed["signature"] = self.rng.choice(["", "0", "\ud800", "é", signed["signature"].upper(), "0" * 10_000])
        elif pick == 2:
            signed["signature"] = self._value()
        return self._head(target), self._dumps(body)

    def flipped(self, target: Target) -> tuple[bytes, bytes]:
        """A genuine one with a bit of the signed text or of the signature changed."""
        body = json.loads(genuine(target, [MARK, self.rng.random()]).body)
        signed = body[envelope.BODY_KEY]
        name = self.rng.choice(("signed", "signature"))
        text = bytearray(signed[name].encode())
        text[self.rng.randrange(len(text))] ^= 1 << self.rng.randrange(7)
        signed[name] = text.decode("latin-1")
        return self._head(target), self._dumps(body)

    def of_another(self, target: Target) -> tuple[bytes, bytes]:
        """A task's genuine message under the key of another."""
        other = self.rng.choice([each for each in self._targets if each.key != target.key])
        return self._head(target), genuine(other, MARK).body

    def fields(self, target: Target) -> tuple[bytes, bytes]:
        """Fields missing, doubled, or of wrong types."""
        body = self._forged(target)
        inner = body[envelope.BODY_KEY]
        for _ in range(self.rng.randrange(1, 4)):
            where = self.rng.choice((body, inner))
            name = self.rng.choice(list(where) or ["x"])
            if self.rng.random() < 0.4:
                where.pop(name, None)
            else:
                where[name] = self._value()
        text = self._dumps(body)
        if self.rng.random() < 0.3:
            text = text[:-1] + b',"airflow_panda":' + self._dumps(self._value()) + b"}"
        return self._head(target), text

    def version(self, target: Target) -> tuple[bytes, bytes]:
        """Versions that there are not."""
        body = json.loads(genuine(target, MARK).body)
        body[envelope.BODY_KEY]["version"] = self.rng.choice([0, 2, -1, 10**400, 1.0, True, "1", None, [1], {"v": 1}])
        return self._head(target), self._dumps(body)

    def classes(self, target: Target) -> tuple[bytes, bytes]:
        """JSON that names classes, as iDDS's json_dumps, jsonpickle and Airflow write them."""
        named = self.rng.choice(CLASSES)
        body = self.rng.choice([named, [named], {**self._forged(target), "ret": named}, {envelope.BODY_KEY: named}])
        return self._head(target), self._dumps(body)

    def captured(self, target: Target) -> tuple[bytes, bytes]:
        """Real messages of iDDS and PanDA, changed at random bytes."""
        text = bytearray(self._dumps(self.rng.choice(CAPTURED)))
        for _ in range(self.rng.randrange(4)):
            at = self.rng.randrange(len(text))
            text[at : at + self.rng.randrange(3)] = self._seasoning[:8] or self.rng.randbytes(2)
        return self._head(target), bytes(text)

    def garbled(self, target: Target) -> tuple[bytes, bytes]:
        """A forged one with bytes changed, cut, doubled or in no encoding."""
        text = bytearray(self._dumps(self._forged(target)))
        for _ in range(self.rng.randrange(1, 6)):
            at = self.rng.randrange(len(text) + 1)
            text[at : at + self.rng.randrange(4)] = self.rng.choice(
                [
                    b"",
                    self._seasoning,
                    self.rng.randbytes(3),
                    b"\xff\xfe",
                    b"\xed\xa0\x80",
                    b"\\ud800",
                    b"\0",
                    b'"',
                    b"{",
                ]
            )
        return self._head(target), bytes(text[: self.rng.randrange(len(text) + 1)] if self.rng.random() < 0.3 else text)

    def pickles(self, target: Target) -> tuple[bytes, bytes]:
        """Pickles, bare, in base64, and as payload."""
        raw = self.rng.choice(PICKLES)
        text = base64.b64encode(raw).decode()
        body = self._forged(target, encoding="cloudpickle", payload=text)
        return self._head(target), self.rng.choice([raw, text.encode(), self._dumps(text), self._dumps(body)])

    def numbers(self, target: Target) -> tuple[bytes, bytes]:
        """Numbers of many digits, NaN and infinity."""
        number = self.rng.choice(
            [b"9" * 5000, b"9" * 4299, b"-" + b"1" * 4300, b"1e999999", b"NaN", b"-Infinity", b"0." + b"1" * 3000]
        )
        if self.rng.random() < 0.02:
            number = b"9" * 100_000
        text = self._dumps(self._forged(target))
        return self._head(target), text.replace(b'"version":1', b'"version":' + number)

    def deep(self, target: Target) -> tuple[bytes, bytes]:
        """Nesting, around the depth at which Python stops and far beyond."""
        depth = self.rng.choice([900, *range(940, 1000), 1500])
        if self.rng.random() < 0.01:
            depth = 100_000
        opened, closed = self.rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
        nest = opened * depth + (b"1" if opened != b"[" else b"") + closed * depth
        field = self.rng.choice([b"version", b"signed", b"signature", b"other"])
        if self.rng.random() < 0.3:
            return self._head(target), nest
        return self._head(target), b'{"airflow_panda":{"version":1,"signed":"x","' + field + b'":' + nest + b"}}"

    def headers(self, target: Target) -> tuple[bytes, bytes]:
        """Headers doubled, escaped, without colon, of no encoding, or very long."""
        head = self._head(target)
        pick = self.rng.randrange(8)
        if pick == 0:
            head = b"internal_id:another\n" + head
        elif pick == 1:
            head = head.replace(b"internal_id", b"internal\\cid")
        elif pick == 2:
            head += b"no colon\n:\n::\n\\n:\\c\\\\\\x\n"
        elif pick == 3:
            head += b"x:" + self.rng.randbytes(20).replace(b"\n", b"").replace(b"\r", b"").replace(b"\0", b"") + b"\n"
        elif pick == 4:
            head += b"content-type:application/x-python-pickle\nsubscription:status\n"
        elif pick == 5:
            head = head.replace(b"internal_id:af", b"internal_id:AF")
        elif pick == 6 and self.rng.random() < 0.1:
            head += b"x:" + b"h" * self.rng.choice([64 * 1024 - 200, 64 * 1024, 64 * 1024 + 1, 200_000]) + b"\n"
        else:
            head += b"y:" + b"z" * 200 + b"\n"
        return head, self._dumps(self._forged(target))

    def large(self, target: Target) -> tuple[bytes, bytes]:
        """Bodies at the limit and over it, now and then."""
        if self.rng.random() < 0.02:
            size = self.rng.choice([envelope.BODY_LIMIT - 1, envelope.BODY_LIMIT, envelope.BODY_LIMIT + 1, 3_000_000])
            return self._head(target), self.rng.choice([b"\0", b"[", b"1", b" "]) * size
        return self._head(target), self._dumps(self._forged(target, payload=MARK + "x" * 5000))

    def signed(self, target: Target) -> tuple[bytes, bytes]:
        """Signed by one who has the key of the task (``signing = archive``), and still no result."""
        name = self.rng.choice(["job", "attempt", "status", "task_key", "exception", "start"])
        wrong = {
            "job": [-1, "0", None, 1.0, True], "attempt": [-1, [], "1"], "status": ["won", None, [], {}],
            "task_key": ["another", None, 5, []], "exception": [None], "start": [10**400],
        }  # fmt: skip
        changed = {name: self.rng.choice(wrong[name])}
        if name == "exception":
            changed["status"] = envelope.RAISED
        report = report_of(target, payload="signed, and wrong", **{k: v for k, v in changed.items() if k != "task_key"})
        if name == "task_key":
            report["task_key"] = changed["task_key"]
        body = {envelope.BODY_KEY: envelope.sign(report, target.signing_key)}
        return self._head(target), self._dumps(body)


SIGNED: Final = "signed"
FAMILIES: Final[dict[str, Callable[[Forger, Target], tuple[bytes, bytes]]]] = {
    name: getattr(Forger, name)
    for name in (
        "forged", "flipped", "of_another", "fields", "version", "classes", "captured", "garbled", "pickles", "numbers",
        "deep", "headers", "large", SIGNED,
    )
}  # fmt: skip
