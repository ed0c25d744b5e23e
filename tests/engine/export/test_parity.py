"""The comparison of an export with its original: by hand, and with wrong conversions."""

import dataclasses
import itertools
import re

import numpy as np
import pytest

from engine.core.dataset import Batch
from engine.core.errors import UserError
from engine.evaluation import decision_rule
from engine.export import parity
from engine.export.formats import FORMATS
from tests.engine.export import export_cases
from tests.engine.export.test_formats import png

IMAGES = export_cases.smooth_images(8)
LABELS = np.array([2, 1, 2, 0, 1, 0, 0, 1], np.int32)


def batches():
    """Yields eight images in batches of three; the last is padded."""
    for start in (0, 3, 6):
        indices = np.arange(start, start + 3)
        weights = (indices < 8).astype(np.float32)
        indices = indices % 8
        yield Batch(IMAGES[indices], LABELS[indices], weights, indices, indices, indices)


def measure(source, predict, tmp_path, name="onnx"):
    path = tmp_path / "model"
    path.write_bytes(b"x" * 1000)
    return parity.measure(
        source, FORMATS[name], path, predict, batches(), lambda index: png(IMAGES[index])
    )


def faithful_export(source):
    def predict(images):
        probabilities = export_cases.expected_probabilities(source, images).astype(np.float32)
        return probabilities, decision_rule.decide(source.rule, source.classes, probabilities)

    return predict


def test_parity_of_equal_models_is_full(tmp_path):
    source = export_cases.export_source(export_cases.RULES["both"])
    result = measure(source, faithful_export(source), tmp_path)
    assert (result.images, result.agreement, result.same_decisions) == (8, 1, 1)
    assert result.mean_difference <= result.largest_difference < 1e-6
    best = export_cases.expected_probabilities(source, IMAGES).argmax(-1)
    assert result.accuracy == result.original_accuracy == np.mean(best == LABELS)
    assert 0.3 < result.accuracy < 1
    assert result.bytes == 1000
    assert result.share_of_weights == 1000 / sum(
        w.nbytes for w in source.loaded_run.model.get_weights()
    )
    assert result.latency.batch_size == 3
    parity.require_agreement(result, 1.0)


def test_parity_counts_differences(tmp_path):
    """Two of eight images get another label, one of them by the rule only."""
    source = export_cases.export_source(export_cases.RULES["plain"])
    expected = export_cases.expected_probabilities(source, IMAGES)
    calls = itertools.count()

    def predict(images):
        probabilities, decisions = faithful_export(source)(images)
        if next(calls) == 0:  # the first three images
            probabilities[0] = np.roll(probabilities[0], 1)
            decisions[:2] = -1
        return probabilities, decisions

    result = measure(source, predict, tmp_path)
    assert result.agreement == 7 / 8
    assert result.same_decisions == 6 / 8
    difference = np.abs(np.roll(expected[0], 1) - expected[0])
    assert result.largest_difference == pytest.approx(difference.max(), rel=1e-4)
    assert result.mean_difference == pytest.approx(difference.sum() / 24, rel=1e-3)
    assert result.original_accuracy - result.accuracy == 1 / 8


def test_parity_passes_bytes_to_export_of_bytes(tmp_path):
    source = export_cases.export_source()
    received = []

    def predict(contents):
        received.extend(contents)
        return faithful_export(source)(
            np.stack([source.decode(image).numpy() for image in contents])
        )

    result = measure(source, predict, tmp_path, "saved_model")
    assert result.agreement == 1
    assert received[:8] == [png(image) for image in IMAGES]


GOOD = parity.Parity(
    1000, 0.999, 0.999, 1e-3, 1e-4, 0.9, 0.9, 10, 0.1, *[parity.Latency(1.0, 2.0, 3)] * 2
)


@pytest.mark.parametrize(
    ("changes", "min_agreement", "message"),
    [
        ({"agreement": 0.994}, 0.995, "most likely label of 6 of 1,000 images, more than --min_ag"),
        ({"same_decisions": 0.5}, 0.995, "the decision by the model's rule of 500 of 1,000 images"),
        ({"largest_difference": float("nan")}, 0.0, "NaN or infinite"),
    ],
)  # fmt: skip
def test_parity_below_min_agreement_is_refused(changes, min_agreement, message):
    result = dataclasses.replace(GOOD, **changes)
    with pytest.raises(UserError, match=message):
        parity.require_agreement(result, min_agreement)


@pytest.mark.parametrize("images", [3, 7, 197, 1000, 30011])
@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_parity_refusal_names_sufficient_agreement(images, wrong):
    """Where the two fractions differ, the lower one."""
    agreement, same = (images - np.array([1, wrong])) / images
    result = dataclasses.replace(
        GOOD, images=images, agreement=float(agreement), same_decisions=float(same)
    )
    with pytest.raises(UserError, match=f"label of 1 of {images:,} images") as error:
        parity.require_agreement(result, 1.0)
    named = float(re.search(r"with --min_agreement=([\d.]+)$", str(error.value))[1])
    assert same - 1.0001e-4 < named <= same
    parity.require_agreement(result, named)
