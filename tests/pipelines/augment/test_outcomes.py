import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.call_syntax import parse_calls
from pipelines.augment import augmentations
from tests.pipelines.augmented import applied, noise_images

COUNTED = {
    "": 1,
    "flip": 2,
    "flip(0)": 1,
    "vertical_flip(1)": 1,
    "vertical_flip(0.3)": 2,
    "turn": 4,
    "posterize": 2,
    "solarize|flip(0.7)": 4,
    "flip(0.7)|turn": 8,
    "turn|flip": 8,
    "flip(0)|turn|vertical_flip(0.125)": 8,
}


@pytest.mark.parametrize(("text", "count"), COUNTED.items())
def test_outcomes_enumerate_all_images(text, count):
    change = augmentations.compose(parse_calls(text or "none"))
    numbers = around_edges(change.draws)
    images = np.repeat(noise_images()[:1], len(numbers), 0)
    shown = change.apply(tf.constant(images), numbers).numpy()
    outcomes = change.outcome(numbers)
    assert change.outcomes == count
    assert set(outcomes) == set(range(count))
    by_outcome: dict[int, set[bytes]] = {}
    for outcome, image in zip(outcomes, shown, strict=True):
        by_outcome.setdefault(outcome, set()).add(image.tobytes())
    assert [len(alike) for alike in by_outcome.values()] == [1] * count, "to the bit"
    seen = {image for alike in by_outcome.values() for image in alike}
    # A half turn is a flip twice: of turns and one flip all 8 differ, a second flip adds none.
    assert len(seen) == count


probabilities = st.floats(0, 1)
counted = st.builds("flip({})".format, probabilities) | st.builds(
    "vertical_flip({})".format, probabilities
)


@settings(deadline=None, max_examples=60)
@given(st.lists(counted | st.just("turn"), max_size=4))
def test_typical_numbers_of_any_chain_have_their_outcome(entries):
    change = augmentations.compose(parse_calls("|".join(entries)))
    typical = np.stack([change.typical(outcome) for outcome in range(change.outcomes)])
    assert typical.shape == (change.outcomes, change.draws)
    assert typical.dtype == np.float32
    assert ((typical >= 0) & (typical < 1)).all()
    assert np.array_equal(change.outcome(typical), np.arange(change.outcomes))


def around_edges(draws: int) -> np.ndarray:
    """Every combination of numbers at and beside all places where an entry may change its mind."""
    places = np.array([0.125, 0.25, 0.3, 0.5, 0.7, 0.75], np.float32)
    beside = [np.nextafter(places, np.float32(end)) for end in (0, 1)]
    line = np.unique(np.concatenate([[0, 0.1, 0.9, 1 - 2.0**-24], places, *beside]))
    grid = np.meshgrid(*[line.astype(np.float32)] * draws)
    return np.stack([axis.ravel() for axis in grid], -1) if draws else np.zeros((1, 0), np.float32)


@pytest.mark.parametrize("text", ["rotate", "flip|zoom(0.1)", "turn|hue", "brightness"])
def test_outcomes_of_continuous_changes_are_not_counted(text):
    assert augmentations.compose(parse_calls(text)).outcomes is None


@pytest.mark.parametrize(("probability", "flipped"), [(0, 0), (1, 3)])
def test_flip_with_probability_0_or_1(probability, flipped):
    images, numbers = noise_images(), np.array([[0.0], [0.5], [0.999]], np.float32)
    result = applied(f"flip({probability})", images, numbers)
    same = [np.array_equal(shown, image) for shown, image in zip(result, images, strict=True)]
    assert same.count(False) == flipped
