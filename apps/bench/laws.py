"""Run the law files of the kernels (tests/**/*_laws.py) where pytest may be absent: a loop over their test functions.

Started as `python -m apps.bench.laws FILE... [--share 0/4]`; a law may use pytest's marks `parametrize`, `skipif`,
`skip`, the functions `raises`, `approx`, `skip`, `param`, and the fixtures `monkeypatch` and `tmp_path`.
"""

import argparse
import contextlib
import importlib
import importlib.util
import inspect
import itertools
import math
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class Law:
    """One test function with one set of arguments."""

    name: str
    function: Callable
    arguments: dict[str, Any]
    skipped: str | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run this process's share of the laws; 1 when one does not hold."""
    parser = argparse.ArgumentParser(prog="python -m apps.bench.laws", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--share", default="0/1", help="which part of the laws: 1/4 is the second of four")
    options = parser.parse_args(arguments)
    part, parts = map(int, options.share.split("/"))
    laws = [law for path in options.files for law in collect(path)][part::parts]
    failed = 0
    for law in laws:
        outcome, detail = hold(law)
        failed += outcome == "failed"
        print(f"{outcome}: {law.name}" + (f"\n{detail}" if detail else ""), flush=True)
    print(f"{len(laws)} laws, {failed} failed", flush=True)
    return 1 if failed else 0


def collect(path: Path) -> list[Law]:
    """The laws of one file, one per set of parameters."""
    try:
        importlib.import_module("pytest")
    except ModuleNotFoundError:
        sys.modules["pytest"] = stand_in()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"files={path}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    found = []
    for name, function in vars(module).items():
        if name.startswith("test_") and inspect.isfunction(function) and function.__module__ == module.__name__:
            found += list(_expand(f"{path.stem}.{name}", function))
    return found


def hold(law: Law) -> tuple[str, str]:
    """Run one law: ("held" | "skipped" | "failed", why)."""
    if law.skipped is not None:
        return "skipped", law.skipped
    with contextlib.ExitStack() as stack:
        given = dict(law.arguments)
        for name in inspect.signature(law.function).parameters:
            if name in given:
                continue
            if name == "monkeypatch":
                given[name] = stack.enter_context(_monkeypatch())
            elif name == "tmp_path":
                given[name] = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            else:
                return "failed", f"argument {name}: expected one of monkeypatch, tmp_path"
        try:
            law.function(**given)
        except BaseException as error:
            if type(error).__name__ == "Skipped":
                return "skipped", str(error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            return "failed", traceback.format_exc()
    return "held", ""


def _expand(name: str, function: Callable) -> Iterator[Law]:
    axes: list[list[tuple[dict[str, Any], str]]] = []
    skipped = None
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            names = mark.args[0].replace(" ", "").split(",") if isinstance(mark.args[0], str) else list(mark.args[0])
            axes.append([_bind(names, value) for value in mark.args[1]])
        elif mark.name == "skip" or (mark.name == "skipif" and mark.args[0]):
            skipped = str(mark.kwargs.get("reason", "skipped"))
    for combination in itertools.product(*axes):
        bound = {key: value for values, _ in combination for key, value in values.items()}
        label = "-".join(text for _, text in combination)
        yield Law(f"{name}[{label}]" if label else name, function, bound, skipped)


def _bind(names: list[str], value: Any) -> tuple[dict[str, Any], str]:
    values = value.values if hasattr(value, "marks") else (value if len(names) > 1 else (value,))
    return dict(zip(names, values, strict=True)), ", ".join(str(v) for v in values)


def stand_in() -> ModuleType:
    """A module with the part of pytest that laws use."""

    class Skipped(BaseException):
        pass

    class Marks:
        def __getattr__(self, name: str) -> Callable:
            def mark(*args: Any, **kwargs: Any) -> Callable:
                def decorate(function: Any) -> Any:
                    entry = SimpleNamespace(name=name, args=args, kwargs=kwargs)
                    function.pytestmark = [*getattr(function, "pytestmark", []), entry]
                    return function

                return decorate

            return mark

    def skip(reason: str = "", **_: Any) -> None:
        raise Skipped(reason)

    module: Any = ModuleType("pytest")
    module.mark, module.skip, module.raises, module.approx = Marks(), skip, _raises, _Approximately
    module.param = lambda *values, **_: SimpleNamespace(values=values, marks=())
    module.fixture = lambda *args, **_: args[0] if args and callable(args[0]) else lambda function: function
    module.MonkeyPatch = _Patch
    return module


class _Approximately:
    def __init__(self, expected: float, rel: float | None = None, abs: float | None = None) -> None:
        self.expected = expected
        relative = 1e-6 if rel is None and abs is None else rel or 0.0
        self.allowed = max(relative * math.fabs(expected), 1e-12 if abs is None else abs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float | int) and -self.allowed <= other - self.expected <= self.allowed

    def __repr__(self) -> str:
        return f"{self.expected} +- {self.allowed}"


@contextlib.contextmanager
def _raises(kind: type[BaseException], match: str = "") -> Iterator[Any]:
    caught = SimpleNamespace(value=None)
    try:
        yield caught
    except kind as error:
        caught.value = error
        if not re.search(match, str(error)):
            raise AssertionError(f"{str(error)!r} does not match {match!r}") from None
        return
    raise AssertionError(f"did not raise {kind.__name__}")


class _Patch:
    """setattr, setenv and delenv that `undo` takes back."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []

    def setattr(self, target: Any, name: str, value: Any) -> None:
        before = getattr(target, name)
        self._undo.append(lambda: setattr(target, name, before))
        setattr(target, name, value)

    def setenv(self, name: str, value: str) -> None:
        self._keep(name)
        os.environ[name] = value

    def delenv(self, name: str, raising: bool = True) -> None:
        self._keep(name)
        if os.environ.pop(name, None) is None and raising:
            raise KeyError(name)

    def _keep(self, name: str) -> None:
        before = os.environ.get(name)
        self._undo.append(lambda: os.environ.pop(name, None) if before is None else os.environ.update({name: before}))

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


@contextlib.contextmanager
def _monkeypatch() -> Iterator[Any]:
    patch = sys.modules["pytest"].MonkeyPatch() if "pytest" in sys.modules else _Patch()
    try:
        yield patch
    finally:
        patch.undo()


if __name__ == "__main__":
    sys.exit(main())
