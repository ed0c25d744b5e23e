"""Answers for single images: order, batches of one shape, problems that stop nobody."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import tensorflow as tf

from engine.inference import predict as prediction
from engine.inference import predictor
from pipelines.predict.image_stream import ImageStream

CLASSES = ("red", "green", "blue")
ADMIRAL = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")


class Colours:
    """Probabilities by the share of each channel; remembers the shapes that it saw."""

    def __init__(self):
        self.shapes = []
        self.model = predictor.Predictor(self, self, CLASSES, (4, 5), "squash")

    def __call__(self, images):
        self.shapes.append(images.shape)
        light = images.astype(np.float32).mean((1, 2))
        return tf.constant(light / light.sum(-1, keepdims=True))


def plain_image(*colour) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (4, 5, 3))


SEEN = [
    ("a", plain_image(60, 30, 10), None),
    ("b", None, "truncated or damaged JPEG"),
    ("c", plain_image(10, 20, 70), None),
    ("d", plain_image(10, 70, 20), None),
    ("e", None, "empty file"),
]


def groups(seen, size) -> list:
    """As `pipelines.predict.image_stream` gives them, so many places in each."""
    found = []
    for start in range(0, len(seen), size):
        places, images, problems = zip(*seen[start : start + size], strict=True)
        sound = [image for image in images if image is not None]
        found.append((places, problems, np.array(sound, np.uint8).reshape(-1, 4, 5, 3)))
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_answers_come_in_order_and_problems_stop_nobody(batch_size):
    colours = Colours()
    answers = list(prediction.predict(colours.model, groups(SEEN, 4), batch_size, 3))
    assert [answer.path for answer in answers] == list("abcde")
    assert [answer.problem for answer in answers] == [problem for _, _, problem in SEEN]
    first = [answer.labels[0][0] if answer.labels else None for answer in answers]
    assert first == ["red", None, "blue", "green", None]
    assert set(colours.shapes) == {(batch_size, 4, 5, 3)}


def test_labels_stand_by_probability():
    answer = next(prediction.predict(Colours().model, groups(SEEN, 5), 1, 2))
    assert answer.labels == (("red", pytest.approx(0.6)), ("green", pytest.approx(0.3)))
    assert np.array_equal(answer.image, SEEN[0][1])


def test_there_are_no_more_labels_than_classes():
    answer = next(prediction.predict(Colours().model, groups(SEEN, 2), 1, 10))
    assert [name for name, _ in answer.labels] == ["red", "green", "blue"]


def test_images_are_there_where_they_are_wanted():
    with_them, without = (
        list(prediction.predict(Colours().model, groups(SEEN, 5), 2, 1, images=wanted))
        for wanted in (True, False)
    )
    for answer, other, (_, image, _) in zip(with_them, without, SEEN, strict=True):
        assert np.array_equal(answer.image, image) if image is not None else answer.image is None
        assert other.image is None
        assert answer.labels == other.labels


def test_where_the_network_gives_no_number_there_is_no_answer():
    """As float16 does where something in it is above 65,504; the others keep their images."""
    black = ("black", plain_image(0, 0, 0), None)
    colours = Colours()
    with np.errstate(invalid="ignore"):
        seen = groups([SEEN[1], black, SEEN[0]], 3)
        answers = list(prediction.predict(colours.model, seen, 3, 3))
    assert [answer.problem for answer in answers] == [SEEN[1][2], prediction.NO_NUMBER, None]
    assert answers[1].labels == ()
    assert answers[1].image is None
    assert np.array_equal(answers[2].image, SEEN[0][1])


def test_nothing_but_problems_needs_no_model():
    colours = Colours()
    answers = list(prediction.predict(colours.model, groups([SEEN[1], SEEN[4]], 2), 4, 3))
    assert [answer.problem for answer in answers] == ["truncated or damaged JPEG", "empty file"]
    assert colours.shapes == []


def test_no_images_give_no_answers():
    assert list(prediction.predict(Colours().model, [], 4, 3)) == []


def test_imagenets_own_classes_name_what_a_photograph_shows():
    model = predictor.from_imagenet("efficientnet_lite0")
    assert len(model.classes) == 1000
    assert model.image_size == (224, 224)
    read = ImageStream([str(ADMIRAL), "gone.jpg"], model.image_size, model.resize, 2).groups(3)
    admiral, gone = prediction.predict(model, read, 3, 5)
    assert "military uniform" in [name for name, _ in admiral.labels]
    chances = [chance for _, chance in admiral.labels]
    assert chances == sorted(chances, reverse=True)
    assert 0 < sum(chances) <= 1 + 1e-6
    assert gone.problem == "can't be read: No such file or directory"
