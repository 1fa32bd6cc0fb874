"""Functions whose own syntax needs Python 3.12: shipped all the same, and refused by older nodes with the reason."""

from corpus_types import Case

type Pairs[T] = list[tuple[T, T]]


def generic_function[T](items: list[T]) -> Pairs[T]:
    return [(item, item) for item in items]


class Holder[T]:
    def __init__(self, item: T) -> None:
        self.item = item


def nested_quotes(names):
    return f"{", ".join(f"{name!r}" for name in names)}"  # fmt: skip


def generic_class(x):
    return Holder[int](x).item


def cases():
    yield Case(name="generic_function", function=generic_function, args=([1],), expected=[(1, 1)], needs=12)
    yield Case(name="nested_quotes", function=nested_quotes, args=(["a", "b"],), expected="'a', 'b'", needs=12)
    yield Case(name="generic_class", function=generic_class, args=(3,), expected=3, needs=12)
