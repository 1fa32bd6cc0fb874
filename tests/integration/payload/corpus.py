# ruff: noqa
"""Functions of every shape that DAG authors write, with arguments and the value each has to give on any worker node.

Imported under a made-up name, as Airflow imports DAG files. ``task`` and ``_TaskDecorator`` stand for Airflow's, which
is not installed where the corpus is packed.
"""

import collections
import dataclasses
import enum
import functools
import itertools as it
import logging
import math
import os.path
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, TypedDict, TypeVar, Union

import numpy as np
from corpus_types import Case

try:
    import tomllib as toml_reader
except ImportError:
    toml_reader = None

if TYPE_CHECKING:
    from xml.dom.minidom import Document

    import nowhere_installed


class _TaskDecorator:
    def __init__(self, function):
        self.function = function
        self.__name__ = function.__name__

    def __call__(self, *args, **kwargs):
        raise AssertionError("Airflow's object is not the function")


class _Decorators:
    def panda(self, function=None, **options):
        return _TaskDecorator(function) if function is not None else _TaskDecorator


_TaskDecorator.__module__ = "airflow.sdk.bases.decorator"
_Decorators.__module__ = "airflow.sdk.definitions.decorators"
task = _Decorators()
grid_task = task.panda

T = TypeVar("T")
LOG = logging.getLogger(__name__)
PATTERN = re.compile(r"(\d+)-(\d+)")
Vector = list[float]
Number = Union[int, float]
LUMI, ENERGY = 139.0, 13
CUTS = {"pt": 25.0, "eta": 2.5}
CUTS["pt"] = 30.0
CHANNELS = ["ee", "mm"]
WEIGHTS = np.array([0.5, 1.5, 2.0])
START = datetime(2024, 2, 29, tzinfo=timezone(timedelta(hours=1)))
square = lambda x: x * x
root_of = math.sqrt
Pair = collections.namedtuple("Pair", "left right")


# --- plain shapes ------------------------------------------------------------------------------------------


def plain(x):
    return x + 1


def defaults_and_keyword_only(a, b=LUMI, *, c=3, d=("x", ENERGY)):
    return a, b, c, d


def mutable_default(x, seen=[]):  # noqa: B006
    seen.append(x)
    return list(seen)


def call_in_default(x, stamp=START + timedelta(days=1), pieces=dict(a=1)):
    return x, stamp, pieces


def star_arguments(first, *rest, **options):
    return first, rest, sorted(options.items())


def positional_only(a, /, b):
    return a - b


def recursion(n):
    return 1 if n < 2 else n * recursion(n - 1)


def even(n):
    return True if n == 0 else odd(n - 1)


def odd(n):
    return False if n == 0 else even(n - 1)


def comprehensions(n):
    return {k: {v for v in range(k)} for k in range(n)}, [LUMI for _ in range(2)], tuple(c for c in CHANNELS)


def generator_inside(n):
    def numbers():
        for i in range(n):
            yield from (i, i * 10)

    return list(numbers())


def nested_with_nonlocal(n):
    total = 0

    def add(x):
        nonlocal total
        total += x
        return total

    return [add(i) for i in range(n)]


def walrus(items):
    return [y for x in items if (y := x * 2) > 4]


def try_except_finally(x):
    steps = []
    try:
        steps.append("try")
        1 / x
    except ZeroDivisionError as error:
        steps.append(type(error).__name__)
    else:
        steps.append("else")
    finally:
        steps.append("finally")
    return steps


def f_strings(name, value):
    width = 8
    return f"{name!r:>{width}}|{value:.2f}|{'#' * 2}|{{}}"


def match_statement(shape):
    match shape:
        case {"kind": "circle", "r": r}:
            return round(math.pi * r**2, 3)
        case [x, *rest]:
            return x, rest
        case _:
            return None


def strings_with_comments():
    text = """# not a comment
    @task.panda
def odd(): pass
"""
    return text, textwrap.dedent("    # x\n    y"), "a # b"  # a real comment


def unicode_text():
    größe = "Größe → ✓ 𝛼"
    return größe, len(größe)


def with_statement(name):
    with open(name, "w") as file:
        file.write("x" * 3)
    return os.path.getsize(name)


def inner_class(x):
    class Box:
        scale = ENERGY

        def __init__(self, value):
            self.value = value

        def volume(self):
            return self.value * self.scale

    return Box(x).volume()


def import_inside(x):
    import json
    from fractions import Fraction

    return json.dumps({"x": x}), str(Fraction(x, 6))


def optional_import_inside():
    try:
        import surely_not_installed_anywhere
    except ImportError:
        return "without"
    return "with"


# --- what the module offers --------------------------------------------------------------------------------


def helper_of_helper(x):
    return round(root_of(x), 3)


def helper(x):
    return helper_of_helper(x) + CUTS["pt"]


def uses_helpers(x):
    return helper(x), square(x), list(it.islice(it.count(x), 2))


def uses_constants():
    LOG.debug("constants")
    return LUMI, ENERGY, CUTS, CHANNELS, START.isoformat(), PATTERN.match("3-4").groups()


def counts_globally():
    global CHANNELS
    CHANNELS = CHANNELS + ["em"]
    return CHANNELS


def annotated(
    path: Path, when: "datetime | None" = None, *, doc: "Document" = None, far: "nowhere_installed.X" = None
) -> "dict[str, Vector]":
    size: Number = len(str(path))
    return {"size": [float(size)]}


def new_annotations(x: int | None, y: dict[str, list[int]] | None = None) -> tuple[int, ...] | None:
    return None if x is None else (x,)


def standard_library(words):
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for word in words:
        groups[word[0]].append(word)
    return dict(groups), Counter(words).most_common(1), functools.reduce(lambda a, b: a + b, words)


def named_tuple_module(x):
    pair = Pair(x, x + 1)
    return pair.left, pair.right


def optional_module():
    return toml_reader is None or toml_reader.loads("a = 1")["a"] == 1


# --- classes -----------------------------------------------------------------------------------------------


class Channel(enum.Enum):
    EE = "ee"
    MM = "mm"

    @property
    def leptons(self):
        return self.value[0]


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass(frozen=True)
class Cut:
    variable: str
    threshold: float
    channel: Channel = Channel.EE
    known: ClassVar[int] = 7

    def passes(self, value: "float | int") -> bool:
        return value > self.threshold


@dataclass
class Selection:
    cuts: Sequence[Cut]
    names: dict[str, int] = field(default_factory=dict)
    level: Level = Level.LOW

    def __post_init__(self):
        self.count = len(self.cuts)


DEFAULT_CUT = Cut("met", 100.0, Channel.MM)


class Track(NamedTuple):
    pt: float
    eta: float = 0.0


class Options(TypedDict, total=False):
    depth: int


class Stack(Generic[T]):
    def __init__(self) -> None:
        self.items: list[T] = []

    def push(self, item: T) -> "Stack[T]":
        self.items.append(item)
        return self


class Analysis:
    luminosity = LUMI

    @classmethod
    def scaled(cls, x):
        return cls.luminosity * x

    @staticmethod
    def shifted(x):
        return helper_of_helper(x) + 1

    class Inner:
        @staticmethod
        def deep(x):
            return x * Analysis.luminosity

    def method(self, x):
        return self.luminosity + x


class Special(Analysis):
    luminosity = 2.0

    @classmethod
    def scaled(cls, x):
        return super().scaled(x) + 1


def dataclass_argument(cut, value):
    return cut.passes(value), cut.variable, cut.channel is Channel.EE, Cut.known


def nested_dataclass_argument(selection):
    inner = selection.cuts[0]
    return type(selection).__name__, inner.threshold, selection.count, selection.level is Level.HIGH, selection.names


def enum_argument(channel, level):
    return channel.leptons, channel.name, level > Level.LOW, isinstance(level, Level)


def anonymous_class_argument(cut):
    return cut.threshold, dataclasses.asdict(cut)["variable"]


def constant_instance():
    return DEFAULT_CUT.variable, DEFAULT_CUT.channel is Channel.MM


def dataclass_built_inside(x):
    cut = Cut("pt", x)
    return dataclasses.replace(cut, threshold=x + 1).threshold, Selection([cut]).count


def classes_built_inside(x):
    options: Options = {"depth": x}
    return Track(1.0).eta, options, Stack().push(x).items


# --- closures ----------------------------------------------------------------------------------------------


def closing_over(constant, cut=DEFAULT_CUT):
    table = {"a": [1, 2]}
    import statistics

    def inner_helper(x):
        return x * constant

    @dataclass
    class Local:
        x: int

        def times(self):
            return self.x * constant

    def closure(x, y=constant * 2, *, z=len(table)):
        """Docstring
        of odd indentation."""
        text = """
  kept
as it is"""
        mean = statistics.mean(table["a"])
        return inner_helper(x), y, z, table, mean, text, cut.threshold, Local(2).times()

    return closure


def mutual_closures():
    base = 10

    def ping(n):
        return base if n == 0 else pong(n - 1)

    def pong(n):
        return -base if n == 0 else ping(n - 1)

    return ping


def recursive_closure(step):
    def down(n):
        return 0 if n <= 0 else 1 + down(n - step)

    return down


# --- decorators --------------------------------------------------------------------------------------------


def doubled(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return 2 * function(*args, **kwargs)

    return wrapper


def bare(function):
    def wrapper(*args, **kwargs):
        return ("bare", function(*args, **kwargs))

    return wrapper


def power(exponent):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(x):
            return function(x) ** exponent

        return wrapper

    return decorate


def registered(function):
    function.registered = True
    return function


@task.panda
def ours_only(x):
    return x + 1


# a comment above the decorators
@task.panda(
    queue="CERN",  # with a comment
    map_over=["x"],
)
# a comment between the decorators
@doubled
# and one above the def
def ours_over_another(x):
    return x + 1


@registered
@task.panda()
def another_over_ours(x):
    return x + 1


@grid_task
@power(exponent=3)
@doubled
def aliased_and_stacked(x):
    return x + 1


@task.panda
@bare
def wrapped_without_wraps(x):
    return x + 1


@doubled
def decorated_helper(x):
    return x


@functools.cache
def cached_helper(n):
    return n if n < 2 else cached_helper(n - 1) + cached_helper(n - 2)


def uses_decorated_helpers(x):
    return decorated_helper(x), cached_helper(30)


@task.panda
def calls_task_function(x):
    return ours_only.function(x) + 1


def dag_function():
    cuts = [1, 2]

    from functools import partial as binding

    @task.panda
    def inside_dag(x, scale=len(cuts)):
        return [c * x for c in cuts], scale, binding(max, 3)(x)

    return inside_dag


@functools.singledispatch
def kind_of(x):
    return "object"


@kind_of.register
def _(x: int):
    return "int"


@kind_of.register(str)
def _of_text(x):
    return "str"


def single_dispatch(*items):
    return [kind_of(item) for item in items]


def partial_target(a, b, c=0, d=0):
    return a, b, c, d


# --- numpy, values, cloudpickle ----------------------------------------------------------------------------


def numpy_argument(array):
    return np.sort(array)[::-1] * WEIGHTS


def numpy_scalar(array):
    return array.sum(), array.dtype.name


def rich_values():
    return {
        1: (1, 2.5, None),
        "set": {1, 2},
        "bytes": b"\x00\xff",
        "complex": 1 - 2j,
        "decimal": Decimal("1.10"),
        "when": START,
        "nan": [float("inf"), -0.0],
        "big": 2**80,
    }


def prints(x):
    print("printed", x)
    return x


class Unshippable:
    """Neither dataclass nor enum: goes only as cloudpickle bytes."""

    def __init__(self, x):
        self.x = x


def takes_object(thing):
    return thing.x


def cases() -> Iterator[Case]:
    """Yield the cases; values are compared by type as well."""

    def case(function, expected, *args, form="source", needs=9, libraries=(), name=None, **kwargs):
        name = name or function.__name__
        return Case(
            name=name,
            function=function,
            expected=expected,
            args=args,
            kwargs=kwargs,
            form=form,
            needs=needs,
            libraries=libraries,
        )

    tasks = {key: value.function for key, value in globals().items() if isinstance(value, _TaskDecorator)}
    yield case(plain, 3, 2)
    yield case(defaults_and_keyword_only, (1, 139.0, 5, ("x", 13)), 1, c=5)
    yield case(mutable_default, [4], 4)
    yield case(call_in_default, (1, START + timedelta(days=1), {"a": 1}), 1)
    yield case(star_arguments, (1, (2, 3), [("k", 4)]), 1, 2, 3, k=4)
    yield case(positional_only, 3, 5, 2)
    yield case(recursion, 120, 5)
    yield case(even, True, 10, name="mutual_recursion")
    yield case(comprehensions, ({0: set(), 1: {0}}, [139.0, 139.0], ("ee", "mm")), 2)
    yield case(generator_inside, [0, 0, 1, 10], 2)
    yield case(nested_with_nonlocal, [0, 1, 3], 3)
    yield case(walrus, [6, 8], [1, 3, 4])
    yield case(try_except_finally, ["try", "ZeroDivisionError", "finally"], 0)
    yield case(f_strings, "    'ab'|1.50|##|{}", "ab", 1.5)
    yield case(match_statement, (1, [2, 3]), [1, 2, 3], needs=10)
    yield case(strings_with_comments, ("# not a comment\n    @task.panda\ndef odd(): pass\n", "# x\ny", "a # b"))
    yield case(unicode_text, ("Größe → ✓ 𝛼", 11))
    yield case(with_statement, 3, "out.txt")
    yield case(inner_class, 26, 2)
    yield case(import_inside, ('{"x": 3}', "1/2"), 3)
    yield case(optional_import_inside, "without")
    yield case(uses_helpers, (33.0, 81, [9, 10]), 9)
    yield case(
        uses_constants,
        (139.0, 13, {"pt": 30.0, "eta": 2.5}, ["ee", "mm"], "2024-02-29T00:00:00+01:00", ("3", "4")),
    )
    yield case(counts_globally, ["ee", "mm", "em"])
    yield case(annotated, {"size": [4.0]}, Path("/tmp"))
    yield case(new_annotations, (3,), 3)
    yield case(standard_library, ({"a": ["ab", "ac"], "b": ["b"]}, [("ab", 1)], "abacb"), ["ab", "ac", "b"])
    yield case(named_tuple_module, (1, 2), 1)
    yield case(optional_module, True)
    yield case(dataclass_argument, (True, "pt", True, 7), Cut("pt", 20.0), 21)
    yield case(
        nested_dataclass_argument,
        ("Selection", 1.0, 1, True, {"n": 1}),
        Selection([Cut("a", 1.0)], {"n": 1}, Level.HIGH),
    )
    yield case(enum_argument, ("m", "MM", True, True), Channel.MM, Level.HIGH)
    yield case(anonymous_class_argument, (2.0, "v"), Cut("v", 2.0))
    yield case(constant_instance, ("met", True))
    yield case(dataclass_built_inside, (2.0, 1), 1.0)
    yield case(classes_built_inside, (0.0, {"depth": 1}, [1]), 1)
    yield case(
        closing_over(3),
        (12, 6, 1, {"a": [1, 2]}, 1.5, "\n  kept\nas it is", 100.0, 6),
        4,
        name="closure_over_constants",
    )
    yield case(mutual_closures(), -10, 3, name="mutual_closures")
    yield case(recursive_closure(2), 3, 5, name="recursive_closure")
    yield case(tasks["ours_only"], 2, 1, name="ours_only")
    yield case(tasks["ours_over_another"], 4, 1, name="ours_over_another")
    yield case(another_over_ours.function, 2, 1, name="another_over_ours")
    yield case(tasks["aliased_and_stacked"], 64, 1, name="aliased_and_stacked")
    yield case(tasks["wrapped_without_wraps"], ("bare", 2), 1, name="wrapped_without_wraps")
    yield case(uses_decorated_helpers, (6, 832040), 3)
    yield case(single_dispatch, ["int", "str", "object"], 1, "a", None)
    yield case(tasks["calls_task_function"], 3, 1, name="calls_task_function")
    yield case(dag_function().function, ([5, 10], 2, 5), 5, name="inside_dag_function")
    yield case(doubled(plain), 4, 1, name="wrapped_by_a_call")
    yield case(Analysis.scaled, 278.0, 2, name="class_method")
    yield case(Special.scaled, 5.0, 2, name="class_method_with_super")
    yield case(Analysis.shifted, 4.0, 9, name="static_method")
    yield case(Analysis.Inner.deep, 139.0, 1, name="static_method_of_inner_class")
    yield case(Cut("pt", 2.0).passes, True, 3, name="bound_method_of_dataclass")
    yield case(functools.partial(partial_target, 1, d=4), (1, 2, 3, 4), 2, c=3, name="functools_partial")
    yield case(math.hypot, 5.0, 3, 4, name="builtin_function")
    yield case(numpy_argument, np.array([1.5, 3.0, 2.0]), np.array([1.0, 2.0, 3.0]), libraries=("numpy",))
    yield case(numpy_scalar, (np.float32(3.0), "float32"), np.array([1, 2], dtype="f4"), libraries=("numpy",))
    yield case(rich_values, rich_values())
    yield case(prints, "x", "x")
    yield case(lambda x: x + LUMI, 140.0, 1, form="cloudpickle", name="lambda")
    yield case(takes_object, 5, Unshippable(5), form="cloudpickle")
    yield case(Cut.passes, True, Cut("a", 1.0), 3, name="plain_method")
