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


def calls(steps: range, per_call: int, count: int, batch_size: int) -> list[range]:
    """The steps in pieces of `per_call`, each within an epoch: its last may be shorter."""
    length = steps_per_epoch(count, batch_size)
    pieces, at = [], steps.start
    while at < steps.stop:
        end = min(at + per_call, (at // length + 1) * length, steps.stop)
        pieces.append(range(at, end))
        at = end
    return pieces


def batches(
    steps: range, count: int, batch_size: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What some steps read, counted from the first step of the run, one behind the other.

    Every example comes exactly once an epoch. An epoch's last batch is filled up with examples
    from the epoch's beginning, at weight 0.

    Returns:
      examples: int32 [n], n = steps x batch_size.
      weights: float32 [n], 1 or 0.
      epochs: int32 [n], counted from 0.
    """
    length = steps_per_epoch(count, batch_size)
    parts = []
    for epoch in range(steps.start // length, -(-steps.stop // length)):
        first = max(steps.start, epoch * length) - epoch * length
        last = min(steps.stop, (epoch + 1) * length) - epoch * length
        places = np.arange(first * batch_size, last * batch_size)
        examples = permutation(count, seed, epoch)[places % count]
        parts.append((examples, places < count, np.full(len(places), epoch)))
    examples, real, epochs = (np.concatenate(column) for column in zip(*parts, strict=True))
    return examples.astype(np.int32), real.astype(np.float32), epochs.astype(np.int32)
