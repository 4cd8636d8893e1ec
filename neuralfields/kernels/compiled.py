"""Compiled modules, which an install without a C++20 compiler does not have."""

from importlib import import_module
from importlib.util import find_spec


def missing(module: str) -> str | None:
    """Why the module of this name cannot be used, or None when it is there."""
    if find_spec(module) is None:
        return "the native module was not built (install again with a C++20 compiler, g++ 11 or newer, present)"
    return None


def isas(module: str) -> list[str]:
    """Instruction sets that it has and this machine can run, fastest first; empty without it."""
    return [] if missing(module) is not None else import_module(module).isas()
