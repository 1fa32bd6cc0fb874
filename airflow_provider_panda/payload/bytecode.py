"""The cloudpickle form of a function: bytes that one minor version of Python understands, and no other."""

from __future__ import annotations

import dis
import importlib.util
import pickletools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, MethodType, ModuleType
from typing import Any

import cloudpickle

from airflow_provider_panda.exceptions import MissingModuleError, PackagingError

from .callables import Unwrapped
from .modules import is_available

_STRINGS = ("SHORT_BINUNICODE", "BINUNICODE", "UNICODE", "BINUNICODE8")


class Pickler:
    """Pickles one function and its arguments; what is defined in modules that no worker node has goes by value.

    :param function: the callable without partial objects.
    :param included: top-level names of the modules that travel along.
    """

    def __init__(self, function: Unwrapped, included: frozenset[str]) -> None:
        self.function, self.included = function, included
        target = function.target
        self.callable = target if function.owner is None else MethodType(target, function.owner)
        self.home = str(getattr(target, "__module__", None))

    def dumps(self, value: Any, where: str) -> bytes:
        """Return the bytes of an object.

        :raises PackagingError: it cannot be pickled.
        :raises MissingModuleError: it refers to a module that neither is installed nor travels along.
        """
        code = getattr(self.function.target, "__code__", None)
        filename, line = (code.co_filename, code.co_firstlineno) if code else (None, None)
        try:
            with self._by_value():
                content: bytes = cloudpickle.dumps(value)
        except Exception as error:
            raise PackagingError(
                function=self.function.name,
                problem=f"{where} cannot be pickled: {type(error).__name__}: {error}",
                remedy="Make that object inside the function",
                filename=filename,
                line=line,
            ) from None
        for name in referred_modules(content):
            self._check(name, filename, line)
        if code is not None:
            for name, at in imports_of(code):
                if importable_here(name):  # what nobody has may be optional
                    self._check(name, filename, at)
        return content

    def _check(self, module: str, filename: str | None, line: int | None) -> None:
        root = module.partition(".")[0]
        if root not in self.included and root not in ("__main__", "cloudpickle") and not is_available(root):
            raise MissingModuleError(module=root, function=self.function.name, filename=filename, line=line)

    @contextmanager
    def _by_value(self) -> Iterator[None]:
        module = sys.modules.get(self.home)
        registered = (
            isinstance(module, ModuleType)
            and self.home != "__main__"
            and not is_available(self.home)
            and self.home.partition(".")[0] not in self.included
            and self.home not in cloudpickle.list_registry_pickle_by_value()
        )
        if registered:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            if registered:
                cloudpickle.unregister_pickle_by_value(module)


def referred_modules(content: bytes) -> set[str]:
    """Return the modules that unpickling would import: of classes and functions by reference, and module objects."""
    found: set[str] = set()
    memo: dict[int, str] = {}
    recent: list[str] = []
    last = ""
    after_subimport = False
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in _STRINGS:
            last = str(argument)
            recent.append(last)
            if after_subimport:
                found.add(last)
                after_subimport = False
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = last
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            last = memo.get(int(argument or 0), "")
            recent.append(last)
            if after_subimport and last:
                found.add(last)
                after_subimport = False
        elif opcode.name == "STACK_GLOBAL":
            module, name = recent[-2:] if len(recent) > 1 else ("", "")
            found.add(module)
            last = "subimport" if name == "subimport" and module.startswith("cloudpickle") else ""
            after_subimport = bool(last)
        elif opcode.name == "GLOBAL":
            found.add(str(argument).partition(" ")[0])
            last = ""
        elif opcode.name not in ("PROTO", "FRAME", "MARK", "TUPLE1", "TUPLE", "REDUCE"):
            last = ""
    return found - {""}


def imports_of(code: CodeType) -> Iterator[tuple[str, int | None]]:
    """Yield the modules that a function imports when it runs, with their lines; relative imports are left out."""
    line: int | None = code.co_firstlineno
    instructions = list(dis.get_instructions(code))
    for index, instruction in enumerate(instructions):
        if instruction.positions is not None and instruction.positions.lineno is not None:
            line = instruction.positions.lineno
        if instruction.opname == "IMPORT_NAME" and instructions[max(index - 2, 0)].argval in (0, "0"):
            yield str(instruction.argval), line
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from imports_of(const)


def importable_here(module: str) -> bool:
    """Whether a module can be found here, wherever it lies."""
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def cloudpickle_files() -> dict[str, bytes]:
    """Return cloudpickle itself (pure Python), for worker nodes that do not have it."""
    folder = Path(cloudpickle.__file__).parent
    return {f"modules/cloudpickle/{path.name}": path.read_bytes() for path in sorted(folder.glob("*.py"))}
