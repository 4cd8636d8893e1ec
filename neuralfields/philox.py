"""Philox 4x32-10: a counter-based random generator, the same words on every backend.

word = bijection(counter; key): no state, so the draw for (field, step, lane) never depends on batch size, position,
shard, worker or restart. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import numpy as np

_MULTIPLIER = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint32(0x9E3779B9), np.uint32(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)

# The third counter word names what the draw is for, so that streams never overlap.
STREAM_INIT = 0
STREAM_SAMPLE = 1
STREAM_ENCODING = 3


def philox(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Return four random 32-bit words per counter.

    Shapes: counter (..., 4) uint32, key (..., 2) uint32 (broadcast against each other) -> (..., 4) uint32.
    """
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint32) for i in range(4))
    k0, k1 = key[..., 0].astype(np.uint32), key[..., 1].astype(np.uint32)
    with np.errstate(over="ignore"):
        for _ in range(10):
            p0 = c0.astype(np.uint64) * _MULTIPLIER[0]
            p1 = c2.astype(np.uint64) * _MULTIPLIER[1]
            hi0, lo0 = (p0 >> _SHIFT).astype(np.uint32), (p0 & _LOW).astype(np.uint32)
            hi1, lo1 = (p1 >> _SHIFT).astype(np.uint32), (p1 & _LOW).astype(np.uint32)
            c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
            k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
    return np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1)


def words(seed: int, ids: np.ndarray, stream: int, step: int, count: int) -> np.ndarray:
    """Return `count` words for every field id at one step: (N, count) uint32.

    Word p of field i is word p % 4 of philox(counter=(p // 4, step, stream, 0), key=(seed, id_i)). Raises ValueError
    when the seed or an id is not in [0, 2^32).
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: expected a number in [0, 2^32)")
    if len(ids) and not 0 <= int(np.min(ids)) <= int(np.max(ids)) < 2**32:
        raise ValueError(f"ids from {np.min(ids)} to {np.max(ids)}: expected numbers in [0, 2^32)")
    blocks = (count + 3) // 4
    counter = np.zeros((1, blocks, 4), np.uint32)
    counter[0, :, 0] = np.arange(blocks)
    counter[0, :, 1] = step
    counter[0, :, 2] = stream
    key = np.empty((len(ids), 1, 2), np.uint32)
    key[:, 0, 0] = seed
    key[:, 0, 1] = ids
    return philox(counter, key).reshape(len(ids), blocks * 4)[:, :count]


def uniform(seed: int, ids: np.ndarray, stream: int, step: int, count: int) -> np.ndarray:
    """Return float32 uniforms in [0, 1) with 24 random bits: (N, count)."""
    return (words(seed, ids, stream, step, count) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def indices(seed: int, ids: np.ndarray, step: int, count: int, population: int) -> np.ndarray:
    """Return `count` draws with replacement from range(population) for every field: (N, count) int64.

    index = (word * population) >> 32: exact in integers, so that every backend draws the same points.
    """
    drawn = words(seed, ids, STREAM_SAMPLE, step, count).astype(np.uint64)
    return ((drawn * np.uint64(population)) >> _SHIFT).astype(np.int64)
