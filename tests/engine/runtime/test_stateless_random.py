"""The random numbers: the generator's published answers, and what the draws depend on."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from engine.runtime import stateless_random

# The file kat_vectors of Random123: threefry2x32 with 20 rounds; counter, key, answer.
KNOWN_ANSWERS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def drawn(seed=0, stream=stateless_random.AUGMENT, epoch=0, examples=(0,), count=8) -> np.ndarray:
    numbers = tf.constant(list(examples), tf.int32)
    return stateless_random.uniform(
        seed, stream, tf.fill([len(examples)], epoch), numbers, count
    ).numpy()


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_threefry_words_as_published(counter, key, answer):
    words = stateless_random.threefry2x32(
        tuple(tf.constant(word, tf.uint32) for word in key),
        tuple(tf.constant(word, tf.uint32) for word in counter),
    )
    assert tuple(int(word) for word in words) == answer


def test_draw_is_the_top_24_bits_of_a_word():
    expected = [0x6B200159 >> 8, 0x99BA4EFE >> 8]
    assert (drawn(count=2)[0] * 2**24).tolist() == expected


def test_draws_of_an_example_are_the_same_in_any_batch():
    together = drawn(seed=3, epoch=2, examples=range(20))
    for example in (0, 7, 19):
        assert np.array_equal(drawn(seed=3, epoch=2, examples=[example])[0], together[example])
    assert np.array_equal(drawn(seed=3, epoch=2, examples=range(19, -1, -1)), together[::-1])


def test_longer_draw_begins_with_the_shorter_one():
    assert np.array_equal(drawn(count=9)[:, :5], drawn(count=5))


def test_draws_of_different_seeds_streams_epochs_examples_differ():
    everything = [
        drawn(seed, stream, epoch, range(4), 7)
        for seed in (0, 1, 2**32 - 1)
        for stream in (stateless_random.AUGMENT, stateless_random.DROPOUT, stateless_random.VIEW)
        for epoch in (0, 1, 50)
    ]
    numbers = np.concatenate([part.ravel() for part in everything])
    # Two of these 756 draws of 24 bits are alike by chance with a probability below 1.8 %.
    assert len(np.unique(numbers)) == len(numbers)


def test_draws_are_uniform_in_the_unit_interval():
    numbers = drawn(seed=11, examples=range(2000), count=10)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    for column in numbers.T:
        counts = np.histogram(column, 20, (0, 1))[0]
        assert stats.chisquare(counts).pvalue > 0.001


def test_draws_of_one_example_are_uncorrelated():
    numbers = drawn(seed=5, examples=range(4000), count=6)
    correlations = np.corrcoef(numbers.T) - np.eye(6)
    assert np.abs(correlations).max() < 4 / np.sqrt(4000)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_shape_of_draws(count):
    assert drawn(examples=range(3), count=count).shape == (3, count)


def test_draws_in_a_graph_equal_eager_ones():
    compiled = tf.function(
        lambda epochs, examples: stateless_random.uniform(4, 1, epochs, examples, 5)
    )
    epochs, examples = tf.constant([1, 1, 2]), tf.constant([5, 6, 5])
    eager = stateless_random.uniform(4, 1, epochs, examples, 5)
    assert np.array_equal(compiled(epochs, examples), eager)
