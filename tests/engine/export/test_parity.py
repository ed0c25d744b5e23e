"""How an export and its original are compared: by hand, and with conversions that went wrong."""

import dataclasses
import json
import re

import numpy as np
import pytest

from engine.core.dataset import Batch
from engine.core.errors import UserError
from engine.evaluation import decision_rule
from engine.export import parity
from engine.export.formats import FORMATS
from tests.engine import small
from tests.engine.export import leaving
from tests.engine.export.test_formats import png

IMAGES = leaving.smooth_images(8)
LABELS = np.array([2, 1, 2, 0, 1, 0, 0, 1], np.int32)


def batches():
    """Eight images in batches of three; the last is filled up."""
    for start in (0, 3, 6):
        numbers = np.arange(start, start + 3)
        weights = (numbers < 8).astype(np.float32)
        numbers = numbers % 8
        yield Batch(IMAGES[numbers], LABELS[numbers], weights, numbers, numbers, numbers)


def measured(given, answer, tmp_path, name="onnx"):
    path = tmp_path / "model"
    path.write_bytes(b"x" * 1000)
    return parity.measure(given, FORMATS[name], path, answer, batches(), lambda n: png(IMAGES[n]))


def honest(given):
    def answer(images):
        chances = leaving.wanted(given, images).astype(np.float32)
        return chances, decision_rule.decide(given.rule, given.classes, chances)

    return answer


def test_the_same_agrees(tmp_path):
    given = leaving.subject(leaving.RULES["both"])
    found = measured(given, honest(given), tmp_path)
    assert (found.images, found.agreement, found.same_decisions) == (8, 1, 1)
    assert found.mean_difference <= found.largest_difference < 1e-6
    likeliest = leaving.wanted(given, IMAGES).argmax(-1)
    assert found.accuracy == found.original_accuracy == np.mean(likeliest == LABELS)
    assert 0.3 < found.accuracy < 1
    assert found.bytes == 1000
    assert found.share_of_weights == 1000 / sum(w.nbytes for w in given.opened.model.get_weights())
    assert found.latency.batch_size == 3
    parity.check(found, 1.0)


def test_what_differs_is_counted(tmp_path):
    """Two images of eight get another label, one of them by the rule only."""
    given = leaving.subject(leaving.RULES["plain"])
    right = leaving.wanted(given, IMAGES)
    order = iter(range(100))

    def answer(images):
        chances, decisions = honest(given)(images)
        if next(order) == 0:  # the first three images
            chances[0] = np.roll(chances[0], 1)
            decisions[:2] = -1
        return chances, decisions

    found = measured(given, answer, tmp_path)
    assert found.agreement == 7 / 8
    assert found.same_decisions == 6 / 8
    difference = np.abs(np.roll(right[0], 1) - right[0])
    assert found.largest_difference == pytest.approx(difference.max(), rel=1e-4)
    assert found.mean_difference == pytest.approx(difference.sum() / 24, rel=1e-3)
    assert found.original_accuracy - found.accuracy == 1 / 8


def test_bytes_are_what_an_export_of_bytes_gets(tmp_path):
    given = leaving.subject()
    seen = []

    def answer(contents):
        seen.extend(contents)
        return honest(given)(np.stack([given.decode(one).numpy() for one in contents]))

    found = measured(given, answer, tmp_path, "saved_model")
    assert found.agreement == 1
    assert seen[:8] == [png(image) for image in IMAGES]


GOOD = parity.Parity(
    1000, 0.999, 0.999, 1e-3, 1e-4, 0.9, 0.9, 10, 0.1, *[parity.Latency(1.0, 2.0, 3)] * 2
)


@pytest.mark.parametrize(
    ("changes", "least", "message"),
    [
        ({}, 0.999, None),
        ({"agreement": 0.994}, 0.995, "likeliest label of 6 of 1,000 images, more than --min_ag"),
        ({"same_decisions": 0.5}, 0.995, "the answer by the model's rule of 500 of 1,000 images"),
        ({"agreement": 0.5, "same_decisions": 0.5}, 0.5, None),
        ({"largest_difference": float("nan")}, 0.0, "no numbers"),
    ],
)  # fmt: skip
def test_what_disagrees_is_refused(changes, least, message):
    found = dataclasses.replace(GOOD, **changes)
    if message is None:
        return parity.check(found, least)
    with pytest.raises(UserError, match=message):
        parity.check(found, least)
    return None


@pytest.mark.parametrize("images", [3, 7, 197, 1000, 30011])
@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_a_refusal_names_an_agreement_that_takes_it(images, wrong):
    """Where the two shares differ, that of the lower one."""
    agreement, same = (images - np.array([1, wrong])) / images
    found = dataclasses.replace(
        GOOD, images=images, agreement=float(agreement), same_decisions=float(same)
    )
    with pytest.raises(UserError, match=f"label of 1 of {images:,} images") as refused:
        parity.check(found, 1.0)
    named = float(re.search(r"with --min_agreement=([\d.]+)$", str(refused.value))[1])
    assert same - 1.0001e-4 < named <= same
    parity.check(found, named)


def test_a_conversion_that_forgot_the_scaling_is_refused(tmp_path):
    given = leaving.subject()
    wrong = honest(given)
    found = measured(given, lambda images: wrong(images // 128), tmp_path)
    with pytest.raises(UserError, match="nothing was written; take another"):
        parity.check(found, 0.98)


def test_the_report_is_json_and_says_what_it_is_of():
    given = leaving.subject(network=small.network())
    said = json.loads(json.dumps(parity.report(given, FORMATS["keras"], 0.995, GOOD)))
    assert said["format"] == "Keras"
    assert said["model"] == "model.keras"
    assert said["agreement"] == 0.999
    assert said["latency"] == {"single_ms": 1.0, "batch_ms": 2.0, "batch_size": 3}
    assert said["software"]["tensorflow"]


def test_sizes_are_those_of_all_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"12345")
    (tmp_path / "c").write_bytes(b"12")
    assert parity.size_of(tmp_path) == 7
    assert parity.size_of(tmp_path / "c") == 2
