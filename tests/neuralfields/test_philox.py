"""Philox: the published known answers, and draws that depend on nothing but seed, id, stream, step and place."""

import numpy as np
import pytest

from neuralfields import philox

# Known-answer vectors for philox4x32-10 of Random123 (Salmon et al., SC 2011): counter, key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def parsed(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], np.uint32)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN, ids=["zeros", "ones", "pi"])
def test_known_answers(counter: str, key: str, expected: str) -> None:
    assert np.array_equal(philox.philox(parsed(counter), parsed(key)), parsed(expected))


def test_known_answers_all_at_once() -> None:
    counters, keys, expected = (np.stack([parsed(row[i]) for row in KNOWN]) for i in range(3))
    assert np.array_equal(philox.philox(counters, keys), expected)
    table = philox.philox(counters[:, None], keys[None])
    assert table.shape == (3, 3, 4)
    assert np.array_equal(np.diagonal(table).T, expected)


def test_words_are_what_the_docstring_says() -> None:
    drawn = philox.words(seed=7, ids=np.array([3, 11]), stream=2, step=5, count=6)
    for row, field in enumerate((3, 11)):
        for p in range(6):
            block = philox.philox(np.array([p // 4, 5, 2, 0], np.uint32), np.array([7, field], np.uint32))
            assert drawn[row, p] == block[p % 4]


def test_draws_do_not_depend_on_the_batch() -> None:
    ids = np.array([5, 0, 2**32 - 1, 17])
    whole = philox.words(1, ids, philox.STREAM_SAMPLE, 9, 13)
    for row, field in enumerate(ids):
        assert np.array_equal(philox.words(1, np.array([field]), philox.STREAM_SAMPLE, 9, 13)[0], whole[row])
    assert np.array_equal(philox.words(1, ids[::-1], philox.STREAM_SAMPLE, 9, 13), whole[::-1])
    assert np.array_equal(philox.words(1, ids, philox.STREAM_SAMPLE, 9, 5), whole[:, :5])


@pytest.mark.parametrize("changed", [{"seed": 2}, {"stream": 2}, {"step": 3}, {"ids": np.array([1])}])
def test_every_argument_changes_the_draw(changed: dict) -> None:
    base = {"seed": 1, "ids": np.array([0]), "stream": 1, "step": 1, "count": 64}
    assert not np.isin(philox.words(**{**base, **changed}), philox.words(**base)).any()


def test_uniform_range_and_moments() -> None:
    u = philox.uniform(0, np.arange(100), philox.STREAM_INIT, 0, 1000)
    assert u.dtype == np.float32
    assert 0.0 <= u.min() < 1e-3
    assert 1.0 - 1e-3 < u.max() < 1.0
    # Five standard errors of the mean and of the variance of 100,000 uniforms.
    assert abs(u.mean() - 1 / 2) < 5 * (1 / 12 / u.size) ** 0.5
    assert abs(u.var() - 1 / 12) < 5 * (1 / 180 / u.size) ** 0.5


@pytest.mark.parametrize("population", [1, 7, 784, 2**31 - 1])
def test_indices_are_exact_integers(population: int) -> None:
    drawn = philox.indices(3, np.arange(50), step=2, count=100, population=population)
    words = philox.words(3, np.arange(50), philox.STREAM_SAMPLE, 2, 100)
    assert drawn.dtype == np.int64
    assert [int(w) * population >> 32 for w in words.ravel()] == drawn.ravel().tolist()
    assert 0 <= drawn.min() <= drawn.max() < population
    assert population > 7 or set(drawn.ravel().tolist()) == set(range(population))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="seed=-1: expected"):
        philox.words(-1, np.array([0]), 0, 0, 1)
    with pytest.raises(ValueError, match="ids from 0 to 4294967296: expected"):
        philox.words(0, np.array([0, 2**32]), 0, 0, 1)
    assert philox.words(0, np.array([], np.int64), 0, 0, 3).shape == (0, 3)
