"""Splits: exact sizes, stratified, whole groups, and nothing but seed and key decides."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import UserError
from pipelines.sources.examples import SPLITS, VALIDATION, from_columns
from pipelines.sources.splits import apportion, limit_examples, take_validation_split


def make(counts, groups=None, order=None):
    labels = np.repeat(np.arange(len(counts)), counts)
    keys = np.array([f"{label}/{index}.jpg" for index, label in enumerate(labels)], dtype=object)
    order = np.arange(len(labels)) if order is None else order
    groups = None if groups is None else np.array(groups, dtype=object)[order]
    classes = tuple(f"c{label}" for label in range(len(counts)))
    return from_columns(keys[order], labels[order], classes, keys=keys[order], groups=groups)


def validation_keys(examples):
    return set(examples.subset("validation").keys)


@given(
    st.lists(st.integers(2, 60), min_size=2, max_size=8),
    st.floats(0.01, 0.99),
    st.integers(0, 2**31),
)
@settings(max_examples=150, deadline=None)
def test_split_has_exact_sizes_and_is_stratified(counts, fraction, seed):
    divided = take_validation_split(make(counts), fraction, seed)
    taken = np.array(divided.subset("validation").class_counts())
    total = int(np.floor(sum(counts) * fraction + 0.5))
    lowest, highest = len(counts), sum(counts) - len(counts)
    assert taken.sum() == min(max(total, lowest), highest)
    assert np.all(taken >= 1)
    assert np.all(np.array(divided.subset("train").class_counts()) >= 1)
    if lowest <= total <= highest and min(counts) * fraction >= 1 <= min(counts) * (1 - fraction):
        assert np.all(np.abs(taken - np.array(counts) * total / sum(counts)) < 1)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_groups_stay_whole(data):
    counts = data.draw(st.lists(st.integers(6, 40), min_size=2, max_size=4))
    names = st.sampled_from(["", *(f"g{index}" for index in range(12))])
    groups = data.draw(st.lists(names, min_size=sum(counts), max_size=sum(counts)))
    examples = take_validation_split(make(counts, groups), 0.3, data.draw(st.integers(0, 1000)))
    parts = {}
    for group, split in zip(examples.groups, examples.splits, strict=True):
        assert not group or parts.setdefault(group, split) == split
    assert min(examples.subset("train").class_counts()) >= 1


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_groups_of_one_class_miss_its_share_by_less_than_the_largest(data):
    sizes = data.draw(st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=12), min_size=2))
    fraction, seed = data.draw(st.floats(0.05, 0.95)), data.draw(st.integers(0, 1000))
    counts = [sum(groups) for groups in sizes]
    names = [
        f"{label}/{number}" if size > 1 else ""
        for label, groups in enumerate(sizes)
        for number, size in enumerate(groups)
        for _ in range(size)
    ]
    divided = take_validation_split(make(counts, names), fraction, seed)
    wanted = take_validation_split(make(counts), fraction, seed).subset("validation").class_counts()
    train, taken = divided.subset("train"), divided.subset("validation").class_counts()
    for label, (got, exact) in enumerate(zip(taken, wanted, strict=True)):
        assert abs(got - exact) < max(sizes[label])
        left = Counter(train.groups[train.labels == label])
        for size in {count if group else 1 for group, count in left.items()}:
            nearer = abs(got + size - exact) < abs(got - exact)
            assert not nearer or size == left.total(), "one more would have served"


@pytest.mark.parametrize(
    ("counts", "groups", "fraction", "wanted"),
    [
        ([300, 150], [f"g{index // 3}" for index in range(450)], 0.2, (60, 30)),
        ([20, 20], [*"a" * 10, *"b" * 10, *"c" * 10, *"d" * 10], 0.1, (10, 10)),
        ([4, 40], ["all"] * 4 + [""] * 40, 0.7, (0, 28)),
        ([1, 9], None, 0.5, (0, 5)),
    ],
    ids=["small groups", "large groups", "group of a whole class", "class of one image"],
)
def test_validation_split_has_the_nearest_size_that_leaves_a_training_image(
    counts, groups, fraction, wanted
):
    divided = take_validation_split(make(counts, groups), fraction, 0)
    assert divided.subset("validation").class_counts() == wanted


def test_class_of_one_image_each_is_refused():
    with pytest.raises(UserError, match="two images"):
        take_validation_split(make([1, 1]), 0.5, 0)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_split_depends_on_seed_and_keys_only(data):
    """Not the order in which a folder lists its files, with groups or without."""
    counts = data.draw(st.lists(st.integers(2, 30), min_size=2, max_size=4))
    names = st.sampled_from(["", *(f"g{index}" for index in range(9))]) | st.just("")
    groups = data.draw(st.lists(names, min_size=sum(counts), max_size=sum(counts)))
    shuffled = np.array(data.draw(st.permutations(range(sum(counts)))))
    seed, fraction = data.draw(st.integers(0, 1000)), data.draw(st.floats(0.05, 0.95))
    one = take_validation_split(make(counts, groups), fraction, seed)
    other = take_validation_split(make(counts, groups, order=shuffled), fraction, seed)
    assert validation_keys(one) == validation_keys(other)


def test_each_seed_has_a_split_of_its_own():
    found = {
        frozenset(validation_keys(take_validation_split(make([60, 30]), 0.2, seed)))
        for seed in range(20)
    }
    assert len(found) == 20


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_removed_image_moves_at_most_one_other_of_each_class(data):
    counts = data.draw(st.lists(st.integers(3, 60), min_size=2, max_size=6))
    gone, fraction = data.draw(st.integers(0, sum(counts) - 1)), data.draw(st.floats(0.05, 0.95))
    examples = make(counts)
    kept = examples.without([gone])
    before = validation_keys(take_validation_split(examples, fraction, 0)) & set(kept.keys)
    moved = before ^ validation_keys(take_validation_split(kept, fraction, 0))
    assert len({key.split("/")[0] for key in moved}) == len(moved)


def test_number_of_validation_examples_is_exact_and_checked():
    assert len(take_validation_split(make([700, 300]), 100, 0).subset("validation")) == 100
    for wrong in (1, 999):
        with pytest.raises(UserError, match="allowed: 2 to 998"):
            take_validation_split(make([700, 300]), wrong, 0)


def test_quotas_are_those_of_hamilton():
    # Balinski and Young, Fair Representation: the seats of six parties by largest remainders.
    votes = np.array([47000, 16000, 15800, 12000, 6100, 3100])
    nothing = np.zeros(6, np.int64)
    assert apportion(votes, 10, nothing, votes).tolist() == [5, 2, 1, 1, 1, 0]


def test_limit_is_proportional_and_at_most_the_number_of_examples():
    examples = take_validation_split(make([400, 100]), 0.2, 0)
    limited = limit_examples(examples, 50, 0)
    assert limited.subset("train").class_counts() == (40, 10)
    assert limited.subset("validation").class_counts() == (40, 10)
    assert limit_examples(make([1000, 3]), 4, 0).class_counts() == (3, 1)
    assert limit_examples(examples, None, 0) is examples
    with pytest.raises(UserError, match="2 or more"):
        limit_examples(examples, 1, 0)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_limit_keeps_splits_and_the_share_of_each_class(data):
    counts = data.draw(st.lists(st.integers(0, 30), min_size=2, max_size=5).filter(sum))
    examples = make(counts)
    parts = data.draw(st.lists(st.integers(0, 2), min_size=len(examples), max_size=len(examples)))
    examples = examples.replace(splits=parts)
    count, seed = data.draw(st.integers(len(counts), 99)), data.draw(st.integers(0, 99))
    limited = limit_examples(examples, count, seed)
    where = dict(zip(examples.keys, examples.splits, strict=True))
    assert [where[key] for key in limited.keys] == limited.splits.tolist()
    assert len(set(limited.keys)) == len(limited)
    for split in SPLITS:
        had = np.array(examples.subset(split).class_counts())
        kept = np.array(limited.subset(split).class_counts())
        assert kept.sum() == min(count, had.sum())
        assert np.all((kept >= (had > 0)) & (kept <= had))
        exact = had * kept.sum() / max(had.sum(), 1)
        if np.all((exact >= 1) | (had == 0)):
            assert np.all(np.abs(kept - exact) < 1)
    shuffled = examples.take(np.random.default_rng(seed).permutation(len(examples)))
    assert set(limit_examples(shuffled, count, seed).keys) == set(limited.keys)


def test_existing_test_split_stays():
    examples = make([30, 30]).replace(splits=np.array([2] * 10 + [0] * 50, dtype=np.int8))
    divided = take_validation_split(examples, 0.2, 0)
    assert np.all(divided.splits[:10] == 2)
    assert np.sum(divided.splits == VALIDATION) == 10
