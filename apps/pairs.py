"""NAME=VALUE words on the command line, checked against the values that they replace."""

import ast
from collections.abc import Sequence
from typing import Any

_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a word"}
_WORDS = {"true": True, "false": False, "none": None}


def with_pairs(option: str, words: Sequence[str], base: dict[str, Any]) -> dict[str, Any]:
    """`base` with the NAME=VALUE words of `--option` in place; names that `base` lacks are added as they are.

    A value is of the kind that `base` has: numbers, True or False, words; several ones as 64,64 or (64, 64). Raises
    ValueError for a word without "=", for a name given twice and for a value of another kind.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not name:
            raise ValueError(f"{option}={word!r}: expected NAME=VALUE")
        if name in found:
            raise ValueError(f"{option}={word!r}: {name} was given before, expected one value for it")
        found[name] = _checked(name, text, base[name]) if name in base else _value(text)
    return {**base, **found}


def _value(text: str) -> Any:
    """A Python literal, or the text itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _checked(name: str, text: str, old: Any) -> Any:
    value = _value(text)
    if isinstance(old, list | tuple):
        several = text.split(",") if isinstance(value, str) else value
        several = list(several) if isinstance(several, list | tuple) else [several]
        if old and not all(_fits(one, old[0]) for one in several):
            raise ValueError(f"{name}={text}: expected values as in {name}={','.join(map(str, old))}")
        return several
    if isinstance(old, str) and not isinstance(value, str):
        value = text  # a word such as "none"
    if not _fits(value, old):
        raise ValueError(f"{name}={text}: expected {_KINDS[type(old)]}, as in {name}={old}")
    return value


def _fits(value: Any, old: Any) -> bool:
    if type(old) not in _KINDS:
        return True
    return type(value) is type(old) or (type(old) is float and type(value) is int)
