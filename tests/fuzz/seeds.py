"""Inputs that fuzzing begins with."""

from __future__ import annotations

import io
import json
import tarfile

from tests.fuzz.hostile import CAPTURED, CLASSES, FAMILIES, Forger, Target, genuine
from tests.fuzz.targets import TARGET


def seeds(name: str) -> list[bytes]:
    """Return inputs to begin with."""
    other = Target("afabcdzzzzzzzzzzzzzz", b"o" * 32)
    forger = Forger(1, [TARGET, other], tree={"$type": "tuple", "v": [1]})
    messages = [genuine(TARGET, [1, {"$type": "set", "v": [2]}]), *(forger.draw(each) for each in FAMILIES)]
    if name == "frames":
        return [
            b"\x07MESSAGE\n" + m.head + b"\n" + m.body.replace(b"\0", b"") + b"\0"
            for m in messages
            if len(m.body) < 4000
        ]
    if name == "message":
        return [m.head + b"\n" + m.body for m in messages]
    if name == "signed_report":
        return [json.loads(messages[0].body)["airflow_panda"]["signed"].encode()]
    if name in ("value", "text_of_value"):
        tags = (
            '"tuple","v":[1]',
            '"set","v":[1]',
            '"dict","v":[[1,2]]',
            '"bytes","v":"AA=="',
            '"complex","v":["1.0","2.0"]',
            '"range","v":["0","9","1"]',
            '"datetime","v":"2020-01-01T00:00:00","fold":0,"zone":{"key":"UTC"}',
            '"time","v":"00:00","fold":0,"zone":{"offset":[0,60,0]}',
            '"date","v":"2020-01-01"',
            '"timedelta","v":[1,2,3]',
            '"Decimal","v":"1.5"',
            '"UUID","v":"00000000000000000000000000000000"',
            '"Path","v":"/x"',
            '"int","v":"0x1"',
            '"enum","class":"x","name":"y"',
            '"dataclass","class":"x","state":{}',
            '"float","v":"nan"',
            '"numpy.ndarray","dtype":"<i8","shape":[1],"data":"AAAAAAAAAAA="',
            '"str","v":"AA=="',
            '"numpy.scalar","dtype":"<M8[s]","shape":[],"data":"AAAAAAAAAAA="',
            '"numpy.ndarray","dtype":"object","shape":[1],"items":[1]',
            '"pandas.Timestamp","wall":"2020","unit":"s","fold":0,"zone":null',
            '"pandas.Index","range":[0,2,1],"name":null',
        )
        return [f'{{"$type":{tag}}}'.encode() for tag in tags]
    if name == "archive":
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w:gz") as tar:
            for each in ("a", "b/c"):
                info = tarfile.TarInfo(each)
                info.size = 3
                tar.addfile(info, io.BytesIO(b"abc"))
        return [raw.getvalue()]
    if name == "answer":
        return [b'2{"success": true, "message": "", "data": [1]}', b"5<html>"]
    return [m.body for m in messages] + [json.dumps(each).encode() for each in (*CAPTURED, *CLASSES)]
