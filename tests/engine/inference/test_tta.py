"""Test-time augmentation: the mean, worked out by NumPy, of what each view gives alone."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from engine.core.call_syntax import parse_calls
from engine.core.errors import UserError
from engine.evaluation import decision_rule, eval_step
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import collect_predictions, evaluate
from engine.inference import tta
from engine.runtime import stateless_random
from pipelines.augment import augment
from tests.engine import small

SEED = 11
CHANGES = augment.compose(parse_calls("rotate(20)|flip|brightness(0.3)"))


def network():
    made = small.network()
    small.enliven(made.model)
    made.head.kernel.assign(9 * made.head.kernel.numpy())  # views are to differ
    return made.model


def chances(model, pixels, temperature) -> np.ndarray:
    logits = model(np.asarray(pixels, np.float32), training=False).numpy().astype(np.float64)
    return scipy.special.softmax(logits / temperature, -1)


def drawn(batch, number: int) -> tf.Tensor:
    """The images by view `number`, each on its own."""
    rows = []
    for image, example in zip(batch.inputs, batch.examples, strict=True):
        numbers = stateless_random.uniform(
            SEED, stateless_random.VIEW, tf.constant([number]), example[None], CHANGES.draws
        )
        rows.append(CHANGES.apply(image[None], numbers)[0])
    return tf.stack(rows)


def measured(model, batch, kind, temperature: float = 1.0) -> np.ndarray:
    step = tta.make_eval_step(model, temperature, tta.views(kind, CHANGES, SEED))
    (numbered,) = tta.numbered([batch])
    losses, logits = step(numbered.inputs, numbered.labels)
    given = decision_rule.log_probabilities(logits.numpy())[np.arange(len(losses)), batch.labels]
    np.testing.assert_allclose(losses, -given, rtol=1e-4, atol=1e-5)
    return logits.numpy()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_flip_is_the_mean_over_the_image_and_its_mirror_image(temperature):
    model, batch = network(), small.batch()
    images = batch.inputs.numpy()
    pair = [chances(model, seen, temperature) for seen in (images, images[:, :, ::-1])]
    assert np.abs(pair[0] - pair[1]).max() > 0.05, "else nothing was averaged"
    found = decision_rule.probabilities(
        DecisionRule(temperature), measured(model, batch, tta.FLIP, temperature)
    )
    np.testing.assert_allclose(found, np.mean(pair, 0), atol=1e-5)


@pytest.mark.parametrize("count", [2, 5])
def test_several_are_the_image_and_draws_of_its_own_augmentation(count):
    model, batch = network(), small.batch()
    each = [chances(model, batch.inputs, 0.7)]
    each += [chances(model, drawn(batch, number), 0.7) for number in range(1, count)]
    assert np.std(each, 0).max() > 0.02
    found = decision_rule.probabilities(DecisionRule(0.7), measured(model, batch, count, 0.7))
    np.testing.assert_allclose(found, np.mean(each, 0), atol=1e-4)


def test_an_example_is_seen_the_same_in_any_batch():
    model, batch = network(), small.batch()
    whole = measured(model, batch, 4)
    turned = measured(model, small.taken(batch, [5, 4, 3, 2, 1, 0]), 4)
    np.testing.assert_allclose(turned[::-1], whole, atol=1e-4)
    other = measured(model, batch._replace(examples=batch.examples + 1), 4)
    assert np.abs(other - whole).max() > 1e-3, "another example draws for itself"


def test_what_no_view_holds_possible_has_a_finite_loss():
    model = network()
    model.layers[-1].bias.assign([0.0, 0.0, -1e4])
    logits = measured(model, small.batch(), tta.FLIP)
    assert np.isfinite(logits).all()
    assert logits[:, 2].max() < -80


def test_an_evaluation_goes_over_all_examples_and_is_traced_once(monkeypatch):
    traces, plain = [], tta.fold

    def counted(model):
        forward = plain(model)
        return lambda inputs: (traces.append(inputs.shape), forward(inputs))[1]

    monkeypatch.setattr(tta, "fold", counted)
    model, loader = network(), small.InMemoryDataLoader(count=10)
    step = tta.make_eval_step(model, 1.0, tta.views(3, CHANGES, SEED))
    found = evaluate(step, tta.numbered(loader.split_batches("train")), small.CLASSES)
    assert found.count == 10
    assert len(traces) == 1
    answers = collect_predictions(step, tta.numbered(loader.split_batches("train")), loader.classes)
    assert answers.evaluation().loss == pytest.approx(found.loss, rel=1e-5)


def test_alike_views_change_nothing():
    """Flipped images that are their own mirror image: the model's logits, but for a constant."""
    model, batch = network(), small.batch()
    images = tf.concat([batch.inputs[:, :, :4], batch.inputs[:, :, 3::-1]], 2)
    batch = batch._replace(inputs=images)
    _, expected = eval_step.make_eval_step(model)(images, batch.labels)
    found = measured(model, batch, tta.FLIP, 3.0)
    apart = found - expected.numpy()
    np.testing.assert_allclose(apart, np.repeat(apart[:, :1], 3, 1), atol=2e-4)


def test_draws_of_a_run_that_augments_nothing_are_refused():
    with pytest.raises(UserError, match=r"--tta=4 .*it has none; allowed: flip"):
        tta.views(4, small.PLAIN, 0)
    assert tta.views(tta.FLIP, small.PLAIN, 0).count == 2
