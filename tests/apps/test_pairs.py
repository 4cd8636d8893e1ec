"""NAME=VALUE words: kinds are those of the values replaced, and what does not fit is refused."""

import pytest

from apps.pairs import with_pairs

BASE = {"width": 16, "rate": 0.5, "skip": True, "norm": "batch", "hidden": [512, 256], "kinds": [], "more": None}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("width=8", 8),
        ("rate=1", 1),
        ("rate=1e-3", 1e-3),
        ("skip=false", False),
        ("norm=none", "none"),
        ("norm=3", "3"),
        ("hidden=64", [64]),
        ("hidden=64,32", [64, 32]),
        ("hidden=(64, 32)", [64, 32]),
        ("kinds=sign,phase", ["sign", "phase"]),
        ("more=None", None),
        ("more=2", 2),
        ("new=2", 2),
        ("new=a=b", "a=b"),
    ],
)
def test_values_are_of_the_kind_they_replace(word: str, value: object) -> None:
    name = word.partition("=")[0]
    assert with_pairs("option", [word], BASE) == {**BASE, name: value}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["width"], "option='width': expected NAME=VALUE"),
        (["=3"], "option='=3': expected NAME=VALUE"),
        (["width=8", "width=9"], "width was given before"),
        (["width=abc"], "width=abc: expected a whole number, as in width=16"),
        (["width=2.5"], "width=2.5: expected a whole number"),
        (["width=True"], "width=True: expected a whole number"),
        (["rate=fast"], "rate=fast: expected a number, as in rate=0.5"),
        (["skip=1"], "skip=1: expected True or False"),
        (["hidden=64,wide"], "hidden=64,wide: expected values as in hidden=512,256"),
    ],
)
def test_what_does_not_fit_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("(", "\\(")):
        with_pairs("option", words, BASE)
