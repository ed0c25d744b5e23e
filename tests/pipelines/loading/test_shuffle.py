"""The order of the examples: a permutation for every count, seed and epoch."""

import numpy as np
from hypothesis import example, given, settings
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
@example(count=262_145, seed=7, epoch=3)
def test_order_has_every_example_once(count, seed, epoch):
    assert np.array_equal(np.sort(shuffle.permutation(count, seed, epoch)), np.arange(count))


def unshifted(word: int, bits: int) -> int:
    """Returns the word whose word ^ (word >> bits) this is."""
    original = word
    for _ in range(64 // bits):
        original = word ^ (original >> bits)
    return original


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=9))
def test_scramble_can_be_inverted_so_no_two_are_equal(words):
    back = []
    for mixed in shuffle.mix(np.array(words, np.uint64)).tolist():
        word = unshifted(mixed, 31) * pow(0x94D049BB133111EB, -1, 2**64) % 2**64
        word = unshifted(word, 27) * pow(0xBF58476D1CE4E5B9, -1, 2**64) % 2**64
        back.append(unshifted(word, 30))
    assert back == words


def test_seeds_and_epochs_have_different_orders():
    orders = {
        shuffle.permutation(50, seed, epoch).tobytes() for seed in range(20) for epoch in range(20)
    }
    assert len(orders) == 400


def test_every_position_of_an_example_is_equally_likely():
    places = [int(np.argmax(shuffle.permutation(10, seed, 1) == 3)) for seed in range(3000)]
    assert stats.chisquare(np.bincount(places, minlength=10)).pvalue > 0.001


def test_order_is_uncorrelated_with_the_index():
    mixed = shuffle.permutation(20_000, 1, 0)
    assert abs(stats.pearsonr(mixed[:-1], mixed[1:]).statistic) < 0.03
    assert abs(stats.pearsonr(mixed, np.arange(20_000)).statistic) < 0.03


@settings(deadline=None, max_examples=60)
@given(count=st.integers(1, 200), size=st.integers(1, 64), seed=SEEDS, epoch=st.integers(0, 5))
def test_steps_of_an_epoch_read_every_example_once(count, size, seed, epoch):
    steps = shuffle.steps_per_epoch(count, size)
    read = [batch(epoch * steps + step, count, size, seed) for step in range(steps)]
    examples, weights = (np.concatenate([part[i] for part in read]) for i in (0, 1))
    assert {part[2] for part in read} == {epoch}
    assert sorted(examples[weights == 1]) == list(range(count))
    assert weights.tolist() == [1] * count + [0] * (steps * size - count)
    assert all(part[0].shape == part[1].shape == (size,) for part in read)
    assert np.all((examples >= 0) & (examples < count))


@settings(deadline=None, max_examples=60)
@given(
    first=st.integers(0, 60),
    number=st.integers(1, 40),
    count=st.integers(1, 60),
    size=st.integers(1, 20),
    seed=SEEDS,
)
def test_steps_together_read_what_they_read_one_by_one(first, number, count, size, seed):
    steps = range(first, first + number)
    together = shuffle.batches(steps, count, size, seed)
    parts = [shuffle.batches(range(step, step + 1), count, size, seed) for step in steps]
    for whole, alone in zip(together, zip(*parts, strict=True), strict=True):
        assert np.array_equal(whole, np.concatenate(alone))
        assert whole.dtype == alone[0].dtype
    before = together[0].copy()
    together[0][:] = 0
    assert np.array_equal(shuffle.batches(steps, count, size, seed)[0], before)


@settings(deadline=None)
@given(
    first=st.integers(0, 50),
    number=st.integers(0, 50),
    steps_per_execution=st.integers(1, 20),
    count=st.integers(1, 30),
)
def test_executions_cover_all_steps_and_end_with_each_epoch(
    first, number, steps_per_execution, count
):
    steps = range(first, first + number)
    executions = shuffle.executions(steps, steps_per_execution, count, 4)
    assert [step for execution in executions for step in execution] == list(steps)
    length = shuffle.steps_per_epoch(count, 4)
    for execution in executions:
        assert 1 <= len(execution) <= steps_per_execution
        assert execution[0] // length == execution[-1] // length
        ends = execution.stop % length == 0 or execution.stop == steps.stop
        assert ends or len(execution) == steps_per_execution, "shorter than necessary"
