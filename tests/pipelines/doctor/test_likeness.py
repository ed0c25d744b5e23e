"""Which images look the same: saved anew, shrunk, brighter; and that others do not."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import fft

from pipelines.doctor import likeness
from tests.pipelines.doctor.scenes import SCENES, jpeg


def grey(images: list) -> np.ndarray:
    side = (likeness.SIDE, likeness.SIDE)
    rows = [np.asarray(one.convert("RGB").resize(side, Image.BILINEAR)) for one in images]
    return likeness.details(np.stack(rows))


EDITS = {
    "saved at quality 40": lambda one: jpeg(one, 40),
    "half the size": lambda one: one.resize((160, 120), Image.BILINEAR),
    "a tenth brighter": lambda one: ImageEnhance.Brightness(one).enhance(1.1),
    "grey": lambda one: one.convert("L"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_every_edited_copy_is_found_and_nothing_else(edit):
    count = len(SCENES)
    pairs = likeness.alike(grey([*SCENES, *(EDITS[edit](one) for one in SCENES)]))
    assert pairs.tolist() == [[number, number + count] for number in range(count)]


def test_the_hash_is_the_signs_of_the_lowest_frequencies():
    images = grey(SCENES[:5])
    waves = fft.dctn(images.astype(float), axes=(1, 2), norm="ortho")[:, :8, :8]
    # The orthonormal transform scales the first row and column by a further 1/sqrt(2).
    waves[:, 0] *= np.sqrt(2)
    waves[:, :, 0] *= np.sqrt(2)
    waves = waves.reshape(5, 64)
    want = waves > np.median(waves[:, 1:], axis=1, keepdims=True)
    want[:, 0] = False
    got = np.unpackbits(likeness.hashes(images).astype(">u8").view(np.uint8).reshape(5, 8), axis=1)
    assert np.array_equal(got, want)


@pytest.mark.parametrize("differing", [0, 2, 4, 6, 8])
def test_near_hashes_meet_among_many_others(differing):
    random = np.random.default_rng(differing)
    others = random.integers(0, 2**63, 50_000).astype(np.uint64)
    base = random.integers(0, 2**63, 300).astype(np.uint64)
    near = base.copy()
    for place in range(300):
        for bit in random.choice(64, differing, replace=False):
            near[place] ^= np.uint64(1) << np.uint64(bit)
    bits = np.concatenate([base, near, others])
    found = {tuple(pair) for pair in likeness._near(bits).tolist()}
    met = np.mean([(number, number + 300) in found for number in range(300)])
    assert met > 0.95


def test_the_pairs_compared_grow_with_the_images_and_not_with_their_square():
    random = np.random.default_rng(0)
    same = np.zeros(3000, np.uint64)  # the worst there is: all hashes equal
    assert len(likeness._near(same)) <= 3000 * 24 * len(likeness._ROTATIONS)
    assert not len(likeness._near(random.integers(0, 2**63, 3000).astype(np.uint64)))


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_make_no_pair(count):
    assert likeness.alike(np.zeros((count, 32, 32), np.uint8)).shape == (0, 2)
