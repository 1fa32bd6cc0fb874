"""Functions that end badly, or need what no worker node has; read by the unit tests under a made-up name."""

# ruff: noqa
import random
import sys
import threading
from dataclasses import dataclass

import needs_side
import side_module
from side_package import thrice

LOCK = threading.Lock()
TABLE = {"good": 1, "bad": object()}


def uses_lock(x):
    with LOCK:
        return x


def uses_table():
    return helper_of_table()


def helper_of_table():
    return TABLE["good"]


def closes_over_lock():
    gate = threading.Lock()

    def inner(x):
        with gate:
            return x

    return inner


def imports_side(x):
    return side_module.times_two(x)


def imports_side_inside(x):
    from side_module import times_two

    return times_two(x)


def imports_package(x):
    return thrice(x)


def imports_needs_side(x):
    return needs_side.go(x)


def imports_nowhere(x):
    import surely_not_installed_anywhere

    return x


def imports_dynamically():
    return __import__("surely_not_installed_anywhere")


async def coroutine():
    return 1


def generator():
    yield 1


def raises(x):
    inner = x
    raise ValueError("bad %s" % inner)


def raises_chain():
    try:
        1 / 0
    except ZeroDivisionError as error:
        raise RuntimeError("outer") from error


def exits():
    sys.exit(0)


def interrupted():
    raise KeyboardInterrupt


def raises_without_end():
    return raises_without_end()


def raises_longly():
    raise ValueError("x" * 300_000)


class Rude(Exception):
    def __str__(self):
        raise TypeError("no message")


def raises_rudely():
    raise Rude


def returns_object():
    return {"points": [1, 2, 3, object()]}


def returns_large(size):
    return "x" * size


@dataclass
class Point:
    x: int


def returns_dataclass():
    return [Point(1)]


def returns_self():
    items = []
    items.append(items)
    return items


def stateful():
    return GENERATOR.random()


GENERATOR = random.Random(7)
