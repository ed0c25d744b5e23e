import numpy as np
import pytest
from PIL import Image, ImageEnhance

from pipelines.doctor import near_duplicates
from tests.pipelines.doctor.scenes import SCENES, jpeg


def grey(images: list) -> np.ndarray:
    side = (near_duplicates.SIDE, near_duplicates.SIDE)
    rows = [np.asarray(one.convert("RGB").resize(side, Image.BILINEAR)) for one in images]
    return near_duplicates.details(np.stack(rows))


EDITS = {
    "saved at quality 40": lambda one: jpeg(one, 40),
    "half the size": lambda one: one.resize((160, 120), Image.BILINEAR),
    "a tenth brighter": lambda one: ImageEnhance.Brightness(one).enhance(1.1),
    "grey": lambda one: one.convert("L"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_copies_and_no_others_are_near_duplicates(edit):
    count = len(SCENES)
    pairs = near_duplicates.find_near_duplicates(
        grey([*SCENES, *(EDITS[edit](one) for one in SCENES)])
    )
    assert pairs.tolist() == [[number, number + count] for number in range(count)]


@pytest.mark.parametrize("differing", [0, 2, 4, 6, 8])
def test_similar_hashes_are_compared_among_many_others(differing):
    random = np.random.default_rng(differing)
    others = random.integers(0, 2**63, 50_000).astype(np.uint64)
    base = random.integers(0, 2**63, 300).astype(np.uint64)
    near = base.copy()
    for place in range(300):
        for bit in random.choice(64, differing, replace=False):
            near[place] ^= np.uint64(1) << np.uint64(bit)
    bits = np.concatenate([base, near, others])
    pairs = {tuple(pair) for pair in near_duplicates._near(bits).tolist()}
    met = np.mean([(number, number + 300) in pairs for number in range(300)])
    assert met > 0.95


def test_number_of_comparisons_grows_linearly():
    random = np.random.default_rng(0)
    same = np.zeros(3000, np.uint64)  # the worst there is: all hashes equal
    assert len(near_duplicates._near(same)) <= 3000 * 24 * len(near_duplicates._ROTATIONS)
    assert not len(near_duplicates._near(random.integers(0, 2**63, 3000).astype(np.uint64)))


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_have_no_pair(count):
    assert near_duplicates.find_near_duplicates(np.zeros((count, 32, 32), np.uint8)).shape == (0, 2)
