"""Test-time augmentation: the mean, computed by NumPy, of what each view gives alone."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from engine.core.call_syntax import parse_calls
from engine.core.errors import UserError
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import collect_predictions, evaluate
from engine.inference import tta
from engine.inference.predictor import Predictor
from engine.runtime import stateless_random
from pipelines.augment import augmentations
from tests.engine import small

SEED = 11
AUGMENTATION = augmentations.compose(parse_calls("rotate(20)|flip|brightness(0.3)"))


@pytest.fixture(scope="module")
def model():
    network = small.network()
    small.enliven(network.model)
    network.head.kernel.assign(9 * network.head.kernel.numpy())  # so that views differ
    return network.model


def softmax(model, pixels, temperature) -> np.ndarray:
    logits = model(np.asarray(pixels, np.float32), training=False).numpy().astype(np.float64)
    return scipy.special.softmax(logits / temperature, -1)


def drawn_view(batch, view: int) -> tf.Tensor:
    """A view of the images, each computed on its own."""
    rows = []
    for image, example in zip(batch.inputs, batch.examples, strict=True):
        numbers = stateless_random.uniform(
            SEED, stateless_random.VIEW, tf.constant([view]), example[None], AUGMENTATION.draws
        )
        rows.append(AUGMENTATION.apply(image[None], numbers)[0])
    return tf.stack(rows)


def run(model, batch, kind, temperature: float = 1.0) -> np.ndarray:
    """The logits of the evaluation step, whose losses are checked."""
    step = tta.make_eval_step(model, temperature, tta.make_views(kind, AUGMENTATION, SEED))
    (batch,) = tta.with_examples([batch])
    losses, logits = step(batch.inputs, batch.labels)
    expected = decision_rule.log_probabilities(logits.numpy())[np.arange(len(losses)), batch.labels]
    np.testing.assert_allclose(losses, -expected, rtol=1e-4, atol=1e-5)
    return logits.numpy()


@pytest.mark.parametrize(("kind", "temperature"), [(tta.FLIP, 1.0), (tta.FLIP, 2.5), (5, 0.7)])
def test_eval_step_averages_probabilities_over_views(model, kind, temperature):
    batch = small.batch()
    images = batch.inputs.numpy()
    if kind == tta.FLIP:
        views = [images, images[:, :, ::-1]]
    else:
        views = [images, *(drawn_view(batch, view) for view in range(1, kind))]
    each = [softmax(model, view, temperature) for view in views]
    assert np.std(each, 0).max() > 0.02, "otherwise nothing is averaged"
    logits = run(model, batch, kind, temperature)
    found = decision_rule.probabilities(DecisionRule(temperature), logits)
    np.testing.assert_allclose(found, np.mean(each, 0), atol=1e-4)


def test_views_depend_on_the_example_and_not_on_its_batch(model):
    batch = small.batch()
    whole = run(model, batch, 4)
    reversed_ = run(model, small.taken(batch, [5, 4, 3, 2, 1, 0]), 4)
    np.testing.assert_allclose(reversed_[::-1], whole, atol=1e-4)
    other = run(model, batch._replace(examples=batch.examples + 1), 4)
    assert np.abs(other - whole).max() > 1e-3, "another example has its own draws"


def test_loss_of_an_impossible_class_is_finite():
    model = small.network().model
    model.layers[-1].bias.assign([0.0, 0.0, -1e4])
    logits = run(model, small.batch(), tta.FLIP)
    assert np.isfinite(logits).all()
    assert logits[:, 2].max() < -80


def test_evaluation_covers_all_examples_and_traces_once(model, monkeypatch):
    traces, fold = [], tta.fold

    def counted(network):
        forward = fold(network)
        return lambda inputs: (traces.append(inputs.shape), forward(inputs))[1]

    monkeypatch.setattr(tta, "fold", counted)
    loader = small.InMemoryDataLoader(count=10)
    step = tta.make_eval_step(model, 1.0, tta.make_views(3, AUGMENTATION, SEED))
    evaluation = evaluate(step, tta.with_examples(loader.split_batches("train")), small.CLASSES)
    assert evaluation.count == 10
    assert len(traces) == 1
    batches = tta.with_examples(loader.split_batches("train"))
    predictions = collect_predictions(step, batches, loader.classes)
    assert predictions.evaluation().loss == pytest.approx(evaluation.loss, rel=1e-5)


def test_averaging_predictor_uses_the_draws_of_example_0(model):
    size = (small.SIDE, small.SIDE)
    plain = Predictor(lambda pixels: tf.nn.softmax(model(pixels)), tuple("abc"), size, "squash")
    averaging = tta.average_predictor(plain, tta.make_views(3, AUGMENTATION, SEED))
    batch = small.batch()._replace(examples=tf.zeros([6], tf.int32))
    views = [batch.inputs, *(drawn_view(batch, view) for view in (1, 2))]
    expected = np.mean([softmax(model, view, 1.0) for view in views], 0)
    found = averaging.probabilities(batch.inputs.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_draws_without_augmentation_are_refused():
    with pytest.raises(UserError, match=r"--tta=4 .*it has none; allowed: flip"):
        tta.make_views(4, small.PLAIN, 0)
    assert tta.make_views(tta.FLIP, small.PLAIN, 0).count == 2
