"""Finds images that look the same although their files differ: saved again, shrunk, brightened.

An image's hash has 64 bits: the signs of its lowest frequencies about their median (Zauner 2010,
"Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1). Hashes are
sorted, and each is compared with its neighbours; then all are rotated by a few bits and sorted
again, so that pairs meet wherever their differing bits are (Charikar 2002, section 3). The number
of comparisons grows with the number of images, not with its square. Of a pair with similar hashes
the finer half of the details decides: two solar cells have much in common, but not that.
"""

from __future__ import annotations

import numpy as np

SIDE = 64  # pixels: what images are decoded to
DETAIL = 32  # pixels: what is compared
MAX_BITS = 8  # by which the hashes of a pair differ
MIN_CORRELATION = 0.99  # of details; higher after saving at quality 40 or halving the size
_NEIGHBOURS = 24  # with which each hash is compared, in each of the sorted orders
_ROTATIONS = range(0, 64, 6)
_LOW = 8  # frequencies along each axis
_BLOCK = 4  # pixels of `DETAIL`; coarser differences don't count
_CHUNK = 1 << 14  # images or pairs at a time
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def details(images: np.ndarray) -> np.ndarray:
    """Returns the grey details, uint8 [n, 32, 32], of images uint8 [n, 64, 64, 3]."""
    grey = images.astype(np.float32) @ _LUMA
    step = SIDE // DETAIL
    return np.round(grey.reshape(-1, DETAIL, step, DETAIL, step).mean((2, 4))).astype(np.uint8)


def hashes(grey: np.ndarray) -> np.ndarray:
    """Returns a hash, uint64 [n], of each image's details, uint8 [n, 32, 32]."""
    from scipy import fft

    waves = fft.dctn(grey.astype(np.float32), axes=(1, 2))[:, :_LOW, :_LOW]  # type II, unscaled
    waves = waves.reshape(len(grey), _LOW * _LOW)
    signs = waves > np.median(waves[:, 1:], axis=1, keepdims=True)  # without the mean brightness
    signs[:, 0] = False
    return np.packbits(signs, axis=1).view(">u8")[:, 0].astype(np.uint64)


def find_near_duplicates(grey: np.ndarray) -> np.ndarray:
    """Finds pairs of images that look the same.

    Args:
      grey: uint8 [n, 32, 32], as from `details`; none of one colour throughout.

    Returns:
      int64 [pairs, 2], the lower number first, no pair twice.
    """
    starts = range(0, len(grey), _CHUNK)
    bits = [hashes(grey[start : start + _CHUNK]) for start in starts]
    pairs = _near(np.concatenate([np.zeros(0, np.uint64), *bits]))
    chunks = [pairs[start : start + _CHUNK] for start in range(0, len(pairs), _CHUNK)]
    alike = [chunk[_correlation(grey, chunk) >= MIN_CORRELATION] for chunk in chunks]
    return np.concatenate(alike) if alike else pairs


def _near(bits: np.ndarray) -> np.ndarray:
    """Returns int64 [pairs, 2]: pairs of hashes, uint64 [n], that differ by MAX_BITS or less."""
    codes, count = np.zeros(0, np.int64), len(bits)
    for turn in _ROTATIONS:
        rotated = (bits << np.uint64(turn)) | (bits >> np.uint64((64 - turn) % 64))
        order, pairs = np.argsort(rotated, kind="stable"), []
        for away in range(1, min(_NEIGHBOURS + 1, len(bits))):
            one, other = order[:-away], order[away:]
            near = np.bitwise_count(bits[one] ^ bits[other]) <= MAX_BITS
            one, other = one[near], other[near]
            pairs.append(np.minimum(one, other) * count + np.maximum(one, other))
        codes = np.union1d(codes, np.concatenate(pairs)) if pairs else codes
    return np.stack(np.divmod(codes, max(count, 1)), axis=1)


def _correlation(grey: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Returns the correlation of the fine details, float32 [pairs], 0 where there are none."""
    one, other = _fine(grey[pairs[:, 0]]), _fine(grey[pairs[:, 1]])
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(1) / np.maximum(norms, 1e-6)


def _fine(grey: np.ndarray) -> np.ndarray:
    """Returns each pixel less the mean of its block, float32 [n, 1024], of uint8 [n, 32, 32]."""
    blocks = grey.reshape(-1, DETAIL // _BLOCK, _BLOCK, DETAIL // _BLOCK, _BLOCK)
    blocks = blocks.astype(np.float32)
    return (blocks - blocks.mean((2, 4), keepdims=True)).reshape(len(grey), -1)
