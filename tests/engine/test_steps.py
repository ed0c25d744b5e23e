"""One step of training: against plain Keras and NumPy, and what it must not touch."""

import dataclasses
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from engine import draws, freezing, optimizers, steps, trunk
from engine.features import Features, Source
from engine.lower import make_lower
from engine.metrics import Totals
from engine.optimizers import OPTIMIZERS
from engine.precision import Program
from engine.specs import Call, Phase, parse_calls
from engine.storage import Room
from engine.views import Views
from pipelines import augment
from pipelines.augment import Augmentation
from tests.engine import small
from tests.engine.test_folding import apart

RATE = tf.constant(0.1)
FLOAT32 = Program()


@dataclasses.dataclass
class Trainer:
    """A small network made ready for one phase. lower: what stands for the trunk, if anything."""

    net: object
    phase: Phase
    recipe: object
    class_weights: tuple = (1.0, 1.0, 1.0)
    augment: object = small.PLAIN
    scale_loss: bool = False
    program: Program = FLOAT32
    lower: object = None
    extra: tuple = ()

    def __post_init__(self):
        self.totals = Totals()
        cut = freezing.split(self.net, self.phase.trainable)
        self.split = dataclasses.replace(cut, variables=[*cut.variables, *self.extra])
        options = dict(self.phase.options)
        self.optimizer = optimizers.build(
            self.phase, options, self.split.variables, self.scale_loss
        )
        fixed = trunk.specialise(self.split.trunk, FLOAT32)
        self.given = steps.Training(
            recipe=self.recipe,
            phase=self.phase,
            split=self.split,
            program=self.program,
            lower=self.lower or make_lower(self.recipe, self.augment, fixed).drawn,
            optimizer=self.optimizer,
            class_weights=list(self.class_weights),
            totals=self.totals,
        )
        self.steps = steps.make_train_step(self.given)

    def step(self, batch, rate):
        """One step alone."""
        self.steps(small.stacked(batch), tf.stack([rate]))


def trainer(trainable="head", optimizer="sgd", net=None, recipe=None, **changes) -> Trainer:
    """Fields of Phase go to the phase, all others to the Trainer."""
    known = {field.name for field in dataclasses.fields(Phase)} & set(changes)
    phase = Phase("test", trainable, 1, optimizer, **{key: changes.pop(key) for key in known})
    return Trainer(net or small.network(), phase, recipe or small.recipe(), **changes)


def moved(model, before) -> set[str]:
    pairs = zip(model.weights, before, strict=True)
    return {variable.path for variable, old in pairs if not np.array_equal(variable, old)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("trainable", ["head", "top", "all"])
def test_a_step_moves_the_variables_of_the_phase_and_no_other(optimizer, trainable):
    made = trainer(trainable, optimizer, small.network(head_units=5))
    model = made.net.model
    before = small.values(model.weights)
    made.step(small.batch(), RATE)
    opened = {"head": ("hidden", "logits"), "top": ("top", "hidden", "logits"), "all": ("",)}
    expected = {v.path for v in model.trainable_variables if v.path.startswith(opened[trainable])}
    assert moved(model, before) == expected


def test_frozen_statistics_stay_and_their_scale_and_offset_learn():
    made = trainer("all")
    before = small.values(made.net.model.weights)
    made.step(small.batch(), RATE)
    changed = moved(made.net.model, before)
    assert {"low_norm/gamma", "low_norm/beta", "top_norm/gamma", "top_norm/beta"} <= changed
    assert not any("moving" in path for path in changed)


def test_statistics_in_training_move_in_the_opened_layers_only():
    made = trainer("top", batch_norm="train")
    before = small.values(made.net.model.weights)
    made.step(small.batch(), RATE)
    statistics = {path for path in moved(made.net.model, before) if "moving" in path}
    assert statistics == {"top_norm/moving_mean", "top_norm/moving_variance"}


def test_three_steps_are_those_of_plain_keras():
    net = small.network()
    plain = keras.models.clone_model(net.model)
    plain.set_weights(net.model.get_weights())
    compile_as_ours(plain)
    made = trainer("all", net=net, batch_norm="train", options={"momentum": 0.9})
    for seed in range(3):
        batch = small.batch(seed=seed)
        made.step(batch, RATE)
        plain.train_on_batch(np.array(batch.inputs, np.float32), np.array(batch.labels))
    agree(net.model, plain)


def test_frozen_statistics_train_as_where_keras_froze_the_layer():
    net = small.network()
    plain = keras.models.clone_model(net.model)
    plain.set_weights(net.model.get_weights())
    for layer in plain.layers:
        layer.trainable = layer.name in ("top_conv", "logits")
    compile_as_ours(plain)
    batch = small.batch()
    trainer("top", net=net).step(batch, RATE)
    plain.train_on_batch(np.array(batch.inputs, np.float32), np.array(batch.labels))
    for name in ("top_conv", "logits"):  # in the first step scale and offset stand still for both
        agree(net.model.get_layer(name), plain.get_layer(name))


def compile_as_ours(model) -> None:
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def agree(ours, theirs) -> None:
    for one, other in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, err_msg=one.path)


def head_update(net, batch, weights, smoothing=0.0) -> tuple[np.ndarray, np.ndarray]:
    """The gradient of the weighted mean loss for the last layer's kernel and bias, in NumPy."""
    pixels = np.array(batch.inputs, np.float32)
    x = np.array(keras.Model(net.model.inputs[0], net.vector)(pixels), float)
    kernel, bias = small.values(net.head.weights)
    targets = np.eye(3)[np.array(batch.labels)] * (1 - smoothing) + smoothing / 3
    difference = (special.softmax(x @ kernel + bias, -1) - targets) * weights[:, None]
    return x.T @ difference / weights.sum(), difference.sum(0) / weights.sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("of_class", [(1.0, 1.0, 1.0), (0.5, 2.0, 7.0)])
def test_class_weights_and_smoothing_are_numpys(smoothing, of_class):
    net, batch = small.network(), small.batch()
    weights = np.array(of_class)[np.array(batch.labels)]
    gradients = head_update(net, batch, weights, smoothing)
    before = small.values(net.head.weights)
    recipe = small.recipe(label_smoothing=smoothing)
    trainer(net=net, recipe=recipe, class_weights=of_class).step(batch, RATE)
    for old, gradient, new in zip(before, gradients, net.head.weights, strict=True):
        np.testing.assert_allclose(new, old - 0.1 * gradient, atol=1e-6)


def test_examples_at_weight_0_do_not_matter():
    whole = small.batch(6)
    filled = whole._replace(weights=tf.constant([1.0, 1, 1, 1, 0, 0]))
    ours, theirs = trainer("top", net=small.network()), trainer("top", net=small.network())
    ours.step(filled, RATE)
    theirs.step(small.taken(whole, [0, 1, 2, 3]), RATE)
    for one, other in zip(ours.net.model.weights, theirs.net.model.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert ours.totals.read().examples == 4
    np.testing.assert_allclose(ours.totals.read().loss, theirs.totals.read().loss, rtol=1e-6)


def test_totals_are_those_of_the_network_before_the_update():
    made, batch = trainer(), small.batch()
    logits = np.array(made.net.model(np.array(batch.inputs, np.float32)), float)
    labels = np.array(batch.labels)
    losses = -special.log_softmax(logits, -1)[np.arange(6), labels]
    made.step(batch, RATE)
    figures = made.totals.read()
    assert figures.loss == pytest.approx(losses.mean(), abs=1e-6)
    assert figures.accuracy == pytest.approx((logits.argmax(-1) == labels).mean())
    assert figures.examples == 6


def test_a_phase_is_traced_once():
    made = trainer("top", "adam")
    for count in (1, 4, 2, 1):
        batches = [small.batch(seed=seed) for seed in range(count)]
        made.steps(small.stacked(*batches), tf.linspace(0.1, 0.05, count))
    assert made.steps.compiled.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("pieces", [2, 3, 6])
@pytest.mark.parametrize("trainable", ["head", "top"])
def test_a_batch_in_pieces_gives_the_same_update(trainable, pieces):
    """With all that weighs examples differently; of three pieces the last is all filling."""
    changes = {"batch_size": 6, "label_smoothing": 0.1, "dropout": 0.3}
    batches = [small.batch(seed=seed) for seed in range(2)]
    batches[1] = batches[1]._replace(weights=tf.constant([1.0, 1, 1, 1, 0, 0]))
    made = []
    for accumulate in (1, pieces):
        recipe = small.recipe(**changes, accumulate=accumulate)
        options = {"momentum": 0.9}
        net = small.network(head_units=12)
        small.enliven(net.model)
        made.append(
            trainer(
                trainable, net=net, recipe=recipe, class_weights=(0.5, 2.0, 7.0), options=options
            )
        )
        before = small.values(net.model.weights)
        for batch in batches:
            made[-1].step(batch, RATE)
        assert len(moved(net.model, before)) == {"head": 4, "top": 8}[trainable]
    for one, other in zip(*(each.net.model.weights for each in made), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    whole, in_pieces = (each.totals.read() for each in made)
    assert in_pieces.loss == pytest.approx(whole.loss, rel=1e-6)
    assert (in_pieces.accuracy, in_pieces.examples) == (whole.accuracy, 10)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("lengths", [(5,), (2, 2, 1)])
def test_steps_in_one_call_are_those_of_as_many_calls(optimizer, lengths):
    """Bit for bit, with a learning rate, draws and weights of each step's own."""
    batches = [
        small.batch(seed=seed)._replace(epochs=tf.fill([6], seed), views=tf.fill([6], seed))
        for seed in range(5)
    ]
    batches[3] = batches[3]._replace(weights=tf.constant([1.0, 1, 0, 0, 0, 0]))
    rates = tf.constant([0.1, 0.05, 0.2, 0.0, 0.03])
    recipe = small.recipe(dropout=0.3, batch_size=6)
    change = augment.compose([Call("rotate"), Call("flip")])
    one, many = (trainer("top", optimizer, recipe=recipe, augment=change) for _ in range(2))
    for batch, rate in zip(batches, rates, strict=True):
        one.step(batch, rate)
    start = 0
    for length in lengths:
        stop = start + length
        many.steps(small.stacked(*batches[start:stop]), rates[start:stop])
        start = stop
    for mine, other in zip(many.net.model.weights, one.net.model.weights, strict=True):
        assert np.array_equal(mine, other), mine.path
    for mine, other in zip(many.optimizer.variables, one.optimizer.variables, strict=True):
        assert np.array_equal(mine, other), mine.path
    assert many.totals.read() == one.totals.read()


@pytest.mark.parametrize(("text", "views"), [("rotate", Views(0, 2, 0.5, 4)), ("flip", None)])
def test_kept_features_train_as_pictures_do(text, views):
    """Three epochs over the same views, once through the trunk and once from the table."""
    feed, change = small.feed(10, 4), augment.compose(parse_calls(text))
    recipe = small.recipe(dropout=0.3, batch_size=4)
    plain = trainer("top", "adam", recipe=recipe, augment=change)
    lower = make_lower(recipe, change, trunk.specialise(plain.split.trunk, FLOAT32))
    source = Source(feed, lower.augmented, change, recipe.seed)
    slots = views.count if views else change.outcomes
    views = views or Views(0, None, 0.0, 4)
    features = Features(source, views, slots, lower.outputs, Room(10**6))
    kept = trainer("top", "adam", recipe=recipe, lower=features.restore)
    for epoch in range(3):
        features.prepare(epoch)
        steps = 3 * epoch, 3 * epoch + 3, 2
        for batches in feed.train(*steps, views):
            plain.steps(batches, tf.fill([len(batches.labels)], 0.01))
        for batches in feed.train(*steps, views, features.lookup):
            kept.steps(batches, tf.fill([len(batches.labels)], 0.01))
    for one, other in zip(kept.net.model.weights, plain.net.model.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, err_msg=one.path)
    assert kept.totals.read().loss == pytest.approx(plain.totals.read().loss, rel=1e-5)


def test_the_learning_rate_is_that_of_the_call():
    made = trainer(learning_rate=5.0)
    before = small.values(made.net.head.weights)
    made.step(small.batch(), tf.constant(0.0))
    assert all(np.array_equal(a, b) for a, b in zip(before, made.net.head.weights, strict=True))


def test_augmentation_gets_the_draws_of_its_examples():
    seen = []

    def apply(images, numbers):
        tf.py_function(lambda n: seen.append(n.numpy()), [numbers], [])
        return tf.cast(images, tf.float32)

    batch = small.batch()._replace(epochs=tf.fill([6], 4), views=tf.range(6) + 7)
    made = trainer(recipe=small.recipe(seed=9), augment=Augmentation(5, apply))
    made.step(batch, RATE)
    expected = draws.uniform(9, draws.AUGMENT, tf.range(6) + 7, batch.examples, 5)
    assert np.array_equal(seen[0], expected)


def test_the_network_sees_what_augmentation_gave():
    batch = small.batch()
    grey = Augmentation(0, lambda images, numbers: tf.fill(images.shape, 100.0))
    ours = trainer("all", augment=grey)
    theirs = trainer("all")
    ours.step(batch, RATE)
    theirs.step(
        batch._replace(inputs=tf.fill(batch.inputs.shape, tf.constant(100, tf.uint8))), RATE
    )
    agree(ours.net.model, theirs.net.model)


def test_a_variable_that_no_gradient_reaches_is_an_error_and_nothing_moves():
    stray = keras.Variable([1.0], name="stray")
    made = trainer(extra=(stray,))
    before = small.values(made.net.model.weights)
    with pytest.raises(RuntimeError, match=r"phase 'test': no gradient reaches .*stray"):
        made.step(small.batch(), RATE)
    assert moved(made.net.model, before) == set()


class TestDropout:
    recipe = small.recipe(dropout=0.3, seed=2)

    def mask(self, batch, recipe=None):
        return steps.dropout_mask(recipe or self.recipe, batch, 400).numpy()

    def test_a_mask_belongs_to_its_example(self):
        batch, order = small.batch(), [3, 0, 5, 1, 4, 2]
        shuffled = self.mask(small.taken(batch, order))
        assert np.array_equal(shuffled, self.mask(batch)[order])

    def test_its_draws_are_not_those_of_augmentation(self):
        batch = small.batch()
        own, others = (
            draws.uniform(2, stream, batch.epochs, batch.examples, 400).numpy() >= 0.3
            for stream in (draws.DROPOUT, draws.AUGMENT)
        )
        assert np.array_equal(self.mask(batch) > 0, own)
        assert not np.array_equal(own, others)

    def test_every_example_epoch_and_seed_has_its_own(self):
        batch = small.batch()
        later = batch._replace(epochs=batch.epochs + 1)
        other = dataclasses.replace(self.recipe, seed=3)
        masks = np.concatenate([self.mask(batch), self.mask(later), self.mask(batch, recipe=other)])
        assert len(np.unique(masks, axis=0)) == 18

    def test_kept_numbers_grow_so_that_the_mean_stays(self):
        kept = self.mask(small.batch())
        assert set(np.unique(kept)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
        # 2,400 draws: the share is within four standard deviations
        assert abs((kept == 0).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / kept.size)

    def test_without_dropout_there_is_no_mask(self):
        assert steps.dropout_mask(small.recipe(), small.batch(), 400) is None

    def test_a_view_that_comes_again_drops_anew(self):
        """Else each kept view would always lose the same features."""
        batch = small.batch()
        assert np.array_equal(self.mask(batch._replace(views=batch.views + 1)), self.mask(batch))

    @pytest.mark.parametrize(
        ("program", "tolerance"),
        [(FLOAT32, 1e-6), (Program("mixed_bfloat16"), 1e-3), (Program("mixed_float16"), 1e-4)],
        ids=str,
    )
    def test_a_step_learns_through_the_mask(self, program, tolerance):
        """Half precision rounds the features, of 0 to 1, by up to a 512th and a 4096th."""
        net, batch = small.network(head_units=40), small.batch()
        before = small.values(net.head.weights)
        x = np.array(
            keras.Model(net.model.inputs[0], net.vector)(np.array(batch.inputs, np.float32))
        )
        x = x * steps.dropout_mask(self.recipe, batch, 40).numpy()
        difference = special.softmax(x @ before[0] + before[1], -1) - np.eye(3)[batch.labels]
        made = trainer(net=net, recipe=self.recipe, program=program)
        made.step(batch, RATE)
        expected = before[1] - 0.1 * difference.mean(0)
        np.testing.assert_allclose(net.head.weights[1], expected, atol=tolerance)


class TestLossScaling:
    half = types.MappingProxyType({"program": Program("mixed_float16"), "scale_loss": True})

    def test_it_changes_nothing_where_nothing_overflows(self):
        ours, theirs = trainer("top", scale_loss=True), trainer("top")
        ours.step(small.batch(), RATE)
        theirs.step(small.batch(), RATE)
        agree(ours.net.model, theirs.net.model)

    def test_float16_trains_close_to_float32(self):
        ours = trainer("top", **self.half)
        theirs = trainer("top")
        before = small.values(ours.net.model.weights)
        ours.step(small.batch(), RATE)
        theirs.step(small.batch(), RATE)
        for old, one, other in zip(
            before, ours.net.model.weights, theirs.net.model.weights, strict=True
        ):
            np.testing.assert_allclose(one - old, other - old, atol=2e-3)
        assert len(moved(ours.net.model, before)) == 6

    def test_a_step_that_overflows_is_skipped_and_the_scale_halved(self):
        made = trainer("top", **self.half)
        made.optimizer.dynamic_scale.assign(2.0**100)
        before = small.values(made.net.model.weights)
        made.step(small.batch(), RATE)
        assert moved(made.net.model, before) == set()
        assert float(made.optimizer.dynamic_scale.numpy()) == 2.0**99
        made.optimizer.dynamic_scale.assign(2.0**10)
        made.step(small.batch(), RATE)
        assert len(moved(made.net.model, before)) == 6


@pytest.mark.parametrize("program", [FLOAT32, Program("mixed_bfloat16")], ids=str)
@pytest.mark.parametrize("trainable", ["head", "top"])
def test_evaluation_above_a_cut_is_that_of_the_whole(trainable, program):
    net, batch = small.network(head_units=5), small.batch()
    small.enliven(net.model)
    cut = freezing.split(net, trainable)
    pixels = tf.cast(batch.inputs, tf.float32)
    boundary = tf.nest.flatten(cut.trunk(pixels, training=False))
    found = steps.make_upper_step(cut, program)(boundary, batch.labels)
    expected = steps.make_eval_step(net.model)(batch.inputs, batch.labels)
    tolerance = 1e-5 if program is FLOAT32 else 0.02
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == tf.float32
        np.testing.assert_allclose(one, other, atol=tolerance)
    assert (program is FLOAT32) == np.allclose(found[0], expected[0], atol=1e-5)


@pytest.mark.parametrize("program", [FLOAT32, Program("mixed_bfloat16")], ids=str)
def test_a_trial_goes_forth_and_all_the_way_back(program):
    """Against a tape around the model; labels are all 0."""
    net, batch = small.network(), small.batch()
    small.enliven(net.model)
    cut, phase = freezing.split(net, "top"), Phase("tune", "top")
    pixels = tf.cast(batch.inputs, tf.float32)
    boundary = tf.nest.flatten(cut.trunk(pixels, training=False))
    before = small.values(net.model.weights)
    logits, gradient = steps.make_trial(small.recipe(), phase, cut, program)(boundary)
    with tf.GradientTape() as tape:
        expected = net.model(pixels, training=False)
        loss = tf.reduce_mean(-tf.nn.log_softmax(expected)[:, 0])
    tolerance = 1e-5 if program is FLOAT32 else 0.05
    assert apart(logits, expected) < tolerance
    assert apart(gradient, tape.gradient(loss, cut.variables[0].value)) < tolerance
    assert cut.variables[0].path == "top_conv/kernel"
    assert moved(net.model, before) == set()


def test_evaluation_gives_each_examples_loss_and_logits():
    net, batch = small.network(), small.batch()
    for variable in net.model.weights:
        if "moving" in variable.path:
            variable.assign(variable + 0.5)  # so that the batch's own statistics would be wrong
    losses, found = steps.make_eval_step(net.model)(batch.inputs, batch.labels)
    logits = np.array(net.model(np.array(batch.inputs, np.float32), training=False), float)
    np.testing.assert_allclose(found, logits, atol=1e-5)
    expected = -special.log_softmax(logits, -1)[np.arange(6), np.array(batch.labels)]
    np.testing.assert_allclose(losses, expected, atol=1e-5)
