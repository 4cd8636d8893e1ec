"""The choice of a backend: the first that can, and never another than the one asked for."""

import pytest

from neuralfields.backend import choose


def test_auto_takes_the_first_that_can() -> None:
    assert choose("auto", {"native": None, "torch": None}) == "native"
    assert choose("auto", {"native": "no compiler", "torch": None}) == "torch"


def test_explicit_requests_are_met_or_refused_with_the_reason() -> None:
    assert choose("torch", {"native": None, "torch": None}) == "torch"
    with pytest.raises(ValueError, match="backend='native' cannot run this: no compiler"):
        choose("native", {"native": "no compiler", "torch": None})
    with pytest.raises(ValueError, match="backend='native' cannot run this: expected one of torch"):
        choose("native", {"torch": None})


def test_unknown_names_and_no_choice_are_refused() -> None:
    with pytest.raises(ValueError, match="backend='cuda': expected one of auto, torch, native, triton, tcnn"):
        choose("cuda", {"torch": None})
    with pytest.raises(ValueError, match=r"backend='auto': none can run this: .*out of memory"):
        choose("auto", {"torch": "out of memory"})
