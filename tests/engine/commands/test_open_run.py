"""A run opened from Python: what it says and predicts, against Keras and the files."""

from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.special
from PIL import Image

from engine.commands.open_run import open_run
from engine.core.errors import UserError
from engine.evaluation.decision_rule import DecisionRule
from engine.runs.history import COLUMNS, write_history
from tests.engine import saved_run

TEMPERATURE = 1.5
ROW = dict.fromkeys(COLUMNS, 0.5) | {"phase": "a", "epoch": 1, "step": 3, "resident_bytes": 2**40}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("opened") / "run"
    return open_run(saved_run.save(place, DecisionRule(temperature=TEMPERATURE)).path)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """uint8 [3, H, W, 3], of another size than the model's."""
    return np.random.default_rng(0).integers(0, 256, (3, 48, 40, 3)).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_probabilities_are_the_same_from_paths_bytes_and_arrays(run, pixels, tmp_path):
    (tmp_path / "one.png").write_bytes(png(pixels[0]))
    mixed = run.probabilities([tmp_path / "one.png", png(pixels[1]), pixels[2]], batch_size=2)
    assert (mixed.dtype, mixed.shape) == (np.float32, (3, len(run.classes)))
    np.testing.assert_array_equal(mixed, run.probabilities(list(pixels), batch_size=2))
    assert run.probabilities([]).shape == (0, len(run.classes))


def test_probabilities_are_softmax_of_keras_logits_by_the_temperature(run, pixels):
    height, width = run.recipe.image_size
    fitting = pixels[:, :height, :width]
    logits = run.model(fitting.astype(np.float32)).numpy()
    expected = scipy.special.softmax(logits / TEMPERATURE, -1)
    np.testing.assert_allclose(run.probabilities(fitting), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"no image", "image 0: "),
        ("gone.jpg", "gone.jpg: No such file or directory"),
        (np.zeros([4, 4], np.uint8), r"image 0: an array of uint8 \[4, 4\]; allowed: uint8"),
        (np.zeros([4, 4, 3]), r"image 0: an array of float64 \[4, 4, 3\]; allowed: uint8"),
    ],
)
def test_unreadable_image_is_named_in_one_line(run, image, message):
    with pytest.raises(UserError, match=message) as caught:
        run.probabilities([image])
    assert "\n" not in str(caught.value)


def test_history_and_result_are_those_of_the_files(run):
    assert (run.history, run.result) == ([], {"status": "finished"})
    write_history(run._directory, [ROW])
    assert run.history == [ROW]
    assert {type(value) for value in run.history[0].values()} == {str, int, float}


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        open_run(tmp_path)
