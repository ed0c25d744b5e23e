"""The order of the examples: a permutation for every count, seed and epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipelines.loading import shuffle


def batch(step, count, size, seed):
    """What one step reads: examples, weights and the epoch."""
    examples, weights, epochs = shuffle.batches(range(step, step + 1), count, size, seed)
    assert len(set(epochs.tolist())) == 1
    return examples, weights, int(epochs[0])


SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 5000), seed=SEEDS, epoch=st.integers(0, 1000))
def test_every_example_stands_in_it_once(count, seed, epoch):
    assert np.array_equal(np.sort(shuffle.permutation(count, seed, epoch)), np.arange(count))


@pytest.mark.parametrize("count", [65_537, 262_145, 1_048_577])
def test_counts_one_above_a_power_of_four_are_no_exception(count):
    assert np.array_equal(np.sort(shuffle.permutation(count, 7, 3)), np.arange(count))


@settings(deadline=None, max_examples=60)
@given(power=st.integers(0, 7), beside=st.integers(-1, 2), seed=SEEDS, epoch=st.integers(0, 1000))
def test_nor_are_their_neighbours_whatever_the_seed(power, beside, seed, epoch):
    count = 4**power + beside
    assert np.array_equal(np.sort(shuffle.permutation(count, seed, epoch)), np.arange(count))


def unshifted(word: int, bits: int) -> int:
    """What word ^ (word >> bits) was made of."""
    found = word
    for _ in range(64 // bits):
        found = word ^ (found >> bits)
    return found


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=9))
def test_the_scramble_can_be_taken_back_so_that_no_two_are_alike(words):
    back = []
    for mixed in shuffle.mix(np.array(words, np.uint64)).tolist():
        word = unshifted(mixed, 31) * pow(0x94D049BB133111EB, -1, 2**64) % 2**64
        word = unshifted(word, 27) * pow(0xBF58476D1CE4E5B9, -1, 2**64) % 2**64
        back.append(unshifted(word, 30))
    assert back == words


def test_each_seed_and_each_epoch_has_an_order_of_its_own():
    orders = {
        shuffle.permutation(50, seed, epoch).tobytes() for seed in range(20) for epoch in range(20)
    }
    assert len(orders) == 400


def test_the_order_is_a_function_of_its_arguments_alone():
    before = shuffle.permutation(1000, 5, 2).copy()
    shuffle.permutation.cache_clear()
    assert np.array_equal(shuffle.permutation(1000, 5, 2), before)


def test_every_place_is_as_likely_for_an_example_over_the_seeds():
    places = [int(np.argmax(shuffle.permutation(10, seed, 1) == 3)) for seed in range(3000)]
    assert stats.chisquare(np.bincount(places, minlength=10)).pvalue > 0.001


def test_neighbours_of_the_index_are_no_neighbours_of_the_order():
    mixed = shuffle.permutation(20_000, 1, 0)
    assert abs(stats.pearsonr(mixed[:-1], mixed[1:]).statistic) < 0.03
    assert abs(stats.pearsonr(mixed, np.arange(20_000)).statistic) < 0.03


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 200), size=st.integers(1, 64), seed=SEEDS, epoch=st.integers(0, 5))
def test_the_steps_of_an_epoch_read_every_example_once(count, size, seed, epoch):
    steps = shuffle.steps_per_epoch(count, size)
    read = [batch(epoch * steps + step, count, size, seed) for step in range(steps)]
    examples, weights = (np.concatenate([part[i] for part in read]) for i in (0, 1))
    assert {part[2] for part in read} == {epoch}
    assert sorted(examples[weights == 1]) == list(range(count))
    assert set(weights) <= {0.0, 1.0}
    assert all(part[0].shape == part[1].shape == (size,) for part in read)
    assert np.all((examples >= 0) & (examples < count))


def test_only_the_last_batch_is_filled_up_and_at_its_end():
    weights = [batch(step, 10, 4, 0)[1].tolist() for step in range(3)]
    assert weights == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]


def test_a_step_is_the_same_however_one_came_to_it():
    walked = [batch(step, 23, 4, 9) for step in range(30)]
    shuffle.permutation.cache_clear()
    for step in (29, 3, 17):
        examples, weights, epoch = batch(step, 23, 4, 9)
        assert np.array_equal(examples, walked[step][0])
        assert np.array_equal(weights, walked[step][1])
        assert epoch == walked[step][2]


def test_who_changes_a_batch_does_not_change_the_order():
    before = batch(0, 8, 4, 0)[0].copy()
    batch(0, 8, 4, 0)[0][:] = 0
    assert np.array_equal(batch(0, 8, 4, 0)[0], before)


@settings(deadline=None, max_examples=60)
@given(
    first=st.integers(0, 60),
    number=st.integers(1, 40),
    count=st.integers(1, 60),
    size=st.integers(1, 20),
    seed=SEEDS,
)
def test_any_steps_together_read_what_they_read_one_by_one(first, number, count, size, seed):
    steps = range(first, first + number)
    together = shuffle.batches(steps, count, size, seed)
    parts = [shuffle.batches(range(step, step + 1), count, size, seed) for step in steps]
    for whole, pieces in zip(together, zip(*parts, strict=True), strict=True):
        assert np.array_equal(whole, np.concatenate(pieces))
        assert whole.dtype == pieces[0].dtype


@settings(deadline=None)
@given(
    first=st.integers(0, 50),
    number=st.integers(0, 50),
    steps_per_execution=st.integers(1, 20),
    count=st.integers(1, 30),
)
def test_calls_are_all_steps_in_their_order_and_none_goes_over_the_end_of_an_epoch(
    first, number, steps_per_execution, count
):
    steps = range(first, first + number)
    made = shuffle.executions(steps, steps_per_execution, count, 4)
    assert [step for call in made for step in call] == list(steps)
    length = shuffle.steps_per_epoch(count, 4)
    for call in made:
        assert 1 <= len(call) <= steps_per_execution
        assert call[0] // length == call[-1] // length
        cut = len(call) == steps_per_execution or call.stop % length == 0 or call.stop == steps.stop
        assert cut, "shorter than it had to be"
