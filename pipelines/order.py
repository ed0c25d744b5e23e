"""The order of the examples: a permutation that is a pure function of (seed, epoch).

There is no shuffle buffer and no iterator state: which examples step N reads is worked out from N.
"""

from __future__ import annotations

import functools

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(words: np.ndarray) -> np.ndarray:
    """A one-to-one scramble of uint64: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


@functools.lru_cache(maxsize=2)
def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """0 to count - 1 in an order of this seed and epoch, int64 [count].

    Sorting by a scramble that is one-to-one leaves no ties, so this is a permutation for every
    count; 8 bytes an example, and a tenth of a second for a million.
    """
    with np.errstate(over="ignore"):
        key = mix(mix(np.array([seed], np.uint64) * _GOLDEN) + np.uint64(epoch + 1) * _GOLDEN)
        return np.argsort(mix(mix(np.arange(count, dtype=np.uint64) * _GOLDEN + key) ^ key))


def steps_per_epoch(count: int, batch_size: int) -> int:
    return -(-count // batch_size)


def batch(step: int, count: int, batch_size: int, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """What step `step` reads, counted from the first step of the run.

    Every example comes exactly once an epoch. The epoch's last batch is filled up with examples
    from the epoch's beginning, at weight 0.

    Returns:
      examples: int32 [batch_size].
      weights: float32 [batch_size], 1 or 0.
      epoch: counted from 0.
    """
    epoch, place = divmod(step, steps_per_epoch(count, batch_size))
    places = np.arange(place * batch_size, (place + 1) * batch_size)
    examples = permutation(count, seed, epoch)[places % count]
    return examples.astype(np.int32), (places < count).astype(np.float32), epoch
