"""Predictions of single images: order, batches of one shape, unreadable images."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import tensorflow as tf

from engine.core.dataset import ImageGroup
from engine.inference import predictor
from engine.inference.predictions import NON_FINITE, predict
from pipelines.predict.image_stream import ImageStream

PHOTOGRAPH = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")


class ColorPredictor(predictor.Predictor):
    """Probabilities are the share of each channel; records the shapes of batches."""

    def __init__(self):
        super().__init__(tf.identity, ("red", "green", "blue"), (4, 5), "squash")
        self.shapes = []

    def probabilities(self, images):
        self.shapes.append(images.shape)
        light = images.astype(np.float32).mean((1, 2))
        return tf.constant(light / light.sum(-1, keepdims=True))


def plain_image(*color) -> np.ndarray:
    return np.broadcast_to(np.array(color, np.uint8), (4, 5, 3))


IMAGES = [
    ("a", plain_image(60, 30, 10), None),
    ("b", None, "truncated or damaged JPEG"),
    ("c", plain_image(10, 20, 70), None),
    ("d", plain_image(10, 70, 20), None),
    ("e", None, "empty file"),
]


def groups(images, size=5) -> list[ImageGroup]:
    found = []
    for start in range(0, len(images), size):
        paths, pixels, problems = zip(*images[start : start + size], strict=True)
        readable = [image for image in pixels if image is not None]
        stacked = np.array(readable, np.uint8).reshape(-1, 4, 5, 3)
        found.append(ImageGroup(paths, problems, stacked))
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_predictions_keep_the_order_with_unreadable_images(batch_size):
    model = ColorPredictor()
    predictions = list(predict(model, groups(IMAGES, 4), batch_size, 3))
    assert [one.path for one in predictions] == list("abcde")
    assert [one.problem for one in predictions] == [problem for _, _, problem in IMAGES]
    first = [one.labels[0][0] if one.labels else None for one in predictions]
    assert first == ["red", None, "blue", "green", None]
    assert set(model.shapes) == {(batch_size, 4, 5, 3)}


@pytest.mark.parametrize(("top_k", "count"), [(2, 2), (10, 3)])
def test_labels_are_ranked_by_probability(top_k, count):
    prediction = next(predict(ColorPredictor(), groups(IMAGES), 1, top_k))
    expected = (
        ("red", pytest.approx(0.6)),
        ("green", pytest.approx(0.3)),
        ("blue", pytest.approx(0.1)),
    )
    assert prediction.labels == expected[:count]


def test_images_come_with_predictions_on_request():
    with_images, without = (
        list(predict(ColorPredictor(), groups(IMAGES), 2, 1, requested))
        for requested in (True, False)
    )
    for one, other, (_, image, _) in zip(with_images, without, IMAGES, strict=True):
        assert np.array_equal(one.image, image) if image is not None else one.image is None
        assert other.image is None
        assert one.labels == other.labels


def test_non_finite_output_is_a_problem_of_its_image_alone():
    """As in float16 where an activation is above 65,504; the others have their images."""
    black = ("black", plain_image(0, 0, 0), None)
    with np.errstate(invalid="ignore"):
        predictions = list(predict(ColorPredictor(), groups([IMAGES[1], black, IMAGES[0]]), 3, 3))
    assert [one.problem for one in predictions] == [IMAGES[1][2], NON_FINITE, None]
    assert predictions[1].labels == ()
    assert predictions[1].image is None
    assert np.array_equal(predictions[2].image, IMAGES[0][1])


def test_unreadable_or_no_images_do_not_run_the_model():
    model = ColorPredictor()
    predictions = list(predict(model, groups([IMAGES[1], IMAGES[4]]), 4, 3))
    assert [one.problem for one in predictions] == ["truncated or damaged JPEG", "empty file"]
    assert list(predict(model, [], 4, 3)) == []
    assert model.shapes == []


def test_imagenet_model_recognises_a_photograph():
    model = predictor.from_imagenet("efficientnet_lite0")
    assert len(model.classes) == 1000
    assert model.image_size == (224, 224)
    paths = [str(PHOTOGRAPH), "missing.jpg"]
    stream = ImageStream(paths, model.image_size, model.resize, 2)
    photograph, missing = predict(model, stream.groups(3), 3, 5)
    assert "military uniform" in [name for name, _ in photograph.labels]
    probabilities = [share for _, share in photograph.labels]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 0 < sum(probabilities) <= 1 + 1e-6
    assert missing.problem == "can't be read: No such file or directory"
