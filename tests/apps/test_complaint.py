"""Words that do not fit are answered in one line, whatever kind of misfit they are."""

import pytest


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("train", "classify", "runs/a", "--out", "b", "--precision", "fp8"),
            "precision='fp8': expected one of fp32, bf16",
        ),
        (("fit", "images", "a", "--out", "b", "--threads", "many"), "threads='many': expected INT"),
        (("render", "a", "--out", "b.png", "--size", "3"), "size='3': expected INT INT"),
        (
            ("fit", "images", "a", "--out", "b", "--stepz", "4"),
            "Unrecognized options: --stepz, 4 Perhaps you meant: --steps",
        ),
        (("fit", "images", "a"), "--out"),
        (("predict",), "READER"),
    ],
)
def test_one_line(nf, words: tuple[str, ...], said: str):
    done = nf(*words)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert done.err.startswith("nf: error: ")
    assert said in done.err
    assert "--help)" in done.err
