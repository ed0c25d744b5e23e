"""What every run says of its pictures before it begins."""

import numpy as np
import pytest

from pipelines.doctor import census
from pipelines.examples import from_columns
from pipelines.pixels import Pixels


def examples(labels, splits=None):
    names = [f"{number}.jpg" for number in range(len(labels))]
    return from_columns(names, labels, ("cats", "dogs"), keys=names, splits=splits)


def pixels(fingerprints, pictures=None):
    count = len(fingerprints)
    if pictures is None:
        pictures = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)
    facts = np.array(fingerprints), np.ones(count, np.uint8)
    return Pixels((16, 16, 3), *facts, memory=pictures)


def test_nothing_is_said_where_nothing_is_wrong():
    assert list(census.in_short(examples([0, 1, 0, 1]), pixels([1, 2, 3, 4]))) == []
    assert list(census.in_short(examples([0, 1]), None)) == []


def test_copies_under_two_labels_are_said_and_plain_copies_are_not():
    (line,) = census.in_short(examples([0, 1, 0, 0]), pixels([7, 7, 3, 3]))
    for words in ("different labels", "0.jpg (train, cats), 1.jpg (train, dogs)", "bin/doctor"):
        assert words in line


def test_copies_in_two_parts_are_said():
    (line,) = census.in_short(examples([0, 1, 0], [0, 0, 2]), pixels([7, 3, 7]))
    assert "in training and in what it is measured on" in line


@pytest.mark.parametrize("levels", [0, 3])
def test_one_colour_is_said(levels):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    pictures[1] = 99
    pictures[1, 3, 5] += levels
    (line,) = census.in_short(examples([0, 1, 0]), pixels([1, 2, 3], pictures))
    assert "of one colour" in line
    assert "1.jpg" in line


def test_a_single_dot_between_the_probes_is_more_than_one_colour():
    pictures = np.full((2, 16, 16, 3), 99, np.uint8)
    pictures[:, 3, 5] = 200
    assert list(census.in_short(examples([0, 1]), pixels([1, 2], pictures))) == []


@pytest.mark.parametrize(("few", "said"), [(10, False), (9, True)])
def test_a_class_with_a_tenth_of_the_others_is_said(few, said):
    lines = list(census.in_short(examples([0] * 100 + [1] * few), None))
    assert len(lines) == said
    assert not said or "100 to train on" in lines[0]
