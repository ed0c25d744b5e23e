"""One image, four ways: training, evaluation, prediction and the saved model agree on it.

The pixels agree bit for bit, for every kind of file at every odd size. So the probabilities, which
follow from pixels alone, are compared for a file of each kind and of each size. They are computed
by programs that differ (folded or not, cut or whole, batches of another size), which in float32
moves probabilities by less than TOLERANCE; where the program is the same, so are the bits.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from engine.core.recipe import RESIZES, Recipe, parse_phase
from engine.evaluation import decision_rule, eval_step
from engine.frozen.array_store import CacheBudget
from engine.inference import predictions as prediction
from engine.inference import predictor
from engine.runs.checkpoints import TrainState
from engine.runs.directory import RunDirectory
from engine.runs.load_run import load_run
from engine.training.job import TrainJob
from engine.training.phase import PhaseTrainer
from pipelines.augment import augmentations
from pipelines.loading import batches, prepare
from pipelines.pixel_cache.cache import CacheLocation
from pipelines.predict.image_stream import ImageStream
from pipelines.sources.examples import TRAIN, VALIDATION, Examples, from_columns
from tests.engine import saved_run
from tests.engine.small_runs import Watcher, small_recipe
from tests.pipelines import every_format
from tests.pipelines.every_format import KINDS, SIZES

TOLERANCE = 1e-5  # of probabilities, float32
HALF_TOLERANCE = 0.1  # where the trunk computes with 8 bits
CLASSES = ("a", "b", "c")
NOWHERE, PLENTY = CacheBudget(0), CacheBudget(10**9)


def recipe_of(folder, size=(32, 32), **changes) -> Recipe:
    """Nothing random in it."""
    return small_recipe(folder, augment="none", dropout=0.0, image_size=size, **changes)


def examples_of(paths: list[Path]) -> Examples:
    """The files twice over: to train on, and to validate on."""
    names, count = [str(path) for path in paths], len(paths)
    labels = [number % len(CLASSES) for number in range(count)]
    splits = [TRAIN] * count + [VALIDATION] * count
    return from_columns(names * 2, labels * 2, CLASSES, keys=names * 2, splits=splits)


def images_by_example(loaded, count: int) -> np.ndarray:
    """uint8 [count, H, W, 3]: the images of some batches, in the order of the examples."""
    found: dict[int, np.ndarray] = {}
    for batch in loaded:
        images = np.reshape(batch.inputs, (-1, *batch.inputs.shape[-3:]))
        found.update(zip(np.ravel(batch.examples).tolist(), images, strict=True))
    assert sorted(found) == list(range(count))
    return np.stack([found[number] for number in range(count)])


def images_for_prediction(paths: list[Path], recipe: Recipe) -> np.ndarray:
    stream = ImageStream(list(map(str, paths)), recipe.image_size, recipe.resize, 2)
    groups = list(stream.groups(16))
    assert not any(problem for group in groups for problem in group.problems)
    return np.concatenate([group.images for group in groups])


@pytest.fixture(scope="module")
def all_files(tmp_path_factory) -> list[Path]:
    """Every kind at every size."""
    folder = tmp_path_factory.mktemp("all")
    pairs = itertools.product(KINDS, SIZES)
    return [every_format.write(folder, *pair, seed) for seed, pair in enumerate(pairs)]


@pytest.mark.parametrize(
    ("resize", "every"),
    [*((resize, 3) for resize in RESIZES), pytest.param("squash", 1, marks=pytest.mark.slow)],
)
def test_pixels_are_the_same_bit_for_bit(all_files, tmp_path, resize, every):
    """For training and evaluation, from files and from the cache; and as bin/predict reads."""
    files = all_files[::every]  # with 3 still every kind and every size
    count, recipe = len(files), recipe_of(tmp_path, (24, 40), resize=resize)
    expected = images_for_prediction(files, recipe)
    assert len({image.tobytes() for image in expected}) > 0.9 * count, "images that differ"
    for memory in (None, 10**9, 0):  # decoded each time, cached in memory, read from the disk
        examples, pixels = examples_of(files), None
        if memory is not None:
            cache = CacheLocation(tmp_path / "cache", memory)
            examples, pixels = prepare.prepare_training_data(
                examples, recipe, tmp_path / "bad.csv", 2, print, cache
            )
            pixels.wait()
            assert pixels.in_memory == bool(memory)
        loader = batches.ImageDataLoader(examples, recipe, 2, pixels)
        steps = -(-count // recipe.batch_size)
        for loaded in (loader.train_batches(0, steps, 3), loader.split_batches("validation")):
            images = images_by_example(loaded, count)
            pairs = zip(files, images, expected, strict=True)
            assert not [path.name for path, a, b in pairs if (a != b).any()], f"memory={memory}"


class Rows:
    """Images, twice over, as `pipelines.pixel_cache.cache.PixelCache` returns them."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def take(self, rows) -> np.ndarray:
        return self.images[rows % len(self.images)]


@dataclasses.dataclass(frozen=True)
class SavedNetwork:
    """A network that was saved as three runs, one for each way of resizing.

    job: its data are the files as each way resizes them, one after the other, N images in all.
    labels: int [N]. expected: float64 [N, classes], the probabilities by Keras, nothing folded.
    measured: what `measure` returned so far.
    """

    files: list[Path]
    runs: dict[str, RunDirectory]
    job: TrainJob
    labels: np.ndarray
    expected: np.ndarray
    measured: dict = dataclasses.field(default_factory=dict)

    def of(self, resize: str) -> np.ndarray:
        return np.split(self.expected, len(RESIZES))[RESIZES.index(resize)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> SavedNetwork:
    place = tmp_path_factory.mktemp("saved")
    sizes = itertools.cycle(SIZES)
    files = [
        every_format.write(place, kind, next(sizes), number) for number, kind in enumerate(KINDS)
    ]
    recipes = {resize: recipe_of(place, resize=resize) for resize in RESIZES}
    runs = {
        resize: saved_run.save(place / resize, classes=CLASSES, recipe=recipe)
        for resize, recipe in recipes.items()
    }
    images = np.concatenate([images_for_prediction(files, recipe) for recipe in recipes.values()])
    network, examples = load_run(runs["squash"]).classifier, examples_of(files * len(RESIZES))
    loader = batches.ImageDataLoader(examples, recipes["squash"], 2, Rows(images))
    plain = augmentations.compose(())
    job = TrainJob(recipes["squash"], network, loader, plain, runs["squash"], Watcher())
    logits = np.asarray(network.model(images.astype(np.float32), training=False), np.float64)
    labels = examples.subset("validation").labels
    return SavedNetwork(files, runs, job, labels, scipy.special.softmax(logits, -1))


def near(found, expected: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    return float(np.abs(np.asarray(found, np.float64) - expected).max()) <= tolerance


def test_saved_network_tells_the_images_apart(saved):
    """Else all would agree on them easily."""
    assert np.median(saved.expected.std(0)) > 1000 * TOLERANCE
    assert len(np.unique(saved.expected.argmax(-1))) > 1


@pytest.mark.parametrize(("resize", "batch_size"), list(zip(RESIZES, (1, 7, 32), strict=True)))
def test_evaluation_and_prediction_agree_with_the_saved_network(saved, resize, batch_size):
    """From the files on, and whatever number of images shares a batch."""
    run, expected = saved.runs[resize], saved.of(resize)
    model = predictor.from_run(run)
    stream = ImageStream(list(map(str, saved.files)), model.image_size, model.resize, 2)
    groups = stream.groups(batch_size)
    answers = [dict(one.labels) for one in prediction.predict(model, groups, batch_size, 3)]
    predicted = np.array([[answer[name] for name in CLASSES] for answer in answers])
    assert near(predicted, expected)
    opened = load_run(run)
    loader = batches.ImageDataLoader(examples_of(saved.files), opened.recipe, 2)
    step = eval_step.make_eval_step(opened.model)
    losses, probabilities = evaluate(step, loader.split_batches("validation"))
    assert near(probabilities, expected)
    assert near(predicted, probabilities, 1e-6), "folded alike"
    assert near(np.exp(-losses), of_labels(expected, saved.labels[: len(expected)]))


def evaluate(step, loaded) -> tuple[np.ndarray, np.ndarray]:
    """Each example's loss and probabilities, in their order."""
    rows = [
        [np.asarray(column)[np.asarray(batch.weights) > 0] for column in step(*batch[:2])]
        for batch in loaded
    ]
    losses, logits = (np.concatenate(column) for column in zip(*rows, strict=True))
    return losses, np.exp(decision_rule.log_probabilities(logits))


def of_labels(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return probabilities[np.arange(len(labels)), labels]


WAYS = {
    "head": ("head", NOWHERE, "float32"),
    "head on cached outputs": ("head", PLENTY, "float32"),
    "top on a frozen trunk": ("middle", NOWHERE, "float32"),
    "top on cached outputs": ("middle", PLENTY, "float32"),
    "all": ("all", NOWHERE, "float32"),
    "head on a trunk in half precision": ("head", NOWHERE, "mixed_bfloat16"),
}


def measure(saved: SavedNetwork, way: str, place: Path) -> tuple[np.ndarray, np.ndarray]:
    """Each example's loss as the train step has it, and its probabilities at an epoch's end."""
    if way not in saved.measured:
        trainable, budget, precision = WAYS[way]
        phase = parse_phase(f"tune(trainable={trainable}, epochs=2, optimizer=sgd)")
        recipe = dataclasses.replace(saved.job.recipe, phases=(phase,), precision=precision)
        run = RunDirectory(place)
        job = dataclasses.replace(saved.job, recipe=recipe, cache_budget=budget, run=run)
        trainer = PhaseTrainer(job, phase, TrainState(), {})
        assert bool(trainer.features) == (budget is PLENTY)
        losses, probabilities = evaluate(trainer.eval_step, trainer.validation_batches())
        assert near(np.exp(-losses), of_labels(probabilities, saved.labels))
        saved.measured[way] = training_losses(trainer, job), probabilities
    return saved.measured[way]


def training_losses(trainer: PhaseTrainer, job: TrainJob) -> np.ndarray:
    """Each example's loss: a step in which it alone counts, and which moves nothing."""
    if trainer.features:
        trainer.features.fill(0)
    losses = np.full(job.loader.train_examples, np.nan)
    alone = np.eye(job.recipe.batch_size, dtype=np.float32)
    for batch in trainer.train_batches(0, job.steps_per_epoch, 1):
        for place in np.flatnonzero(batch.weights[0]):
            trainer.step(batch._replace(weights=tf.constant(alone[place][None])), tf.zeros([1]))
            losses[batch.examples[0, place]] = trainer.metrics.read().loss
            trainer.metrics.reset()
    return losses


@pytest.mark.parametrize("way", WAYS)
def test_training_agrees_with_the_saved_network(saved, tmp_path, way):
    """Whatever is frozen, and whether the trunk's outputs are cached; half precision is near."""
    losses, probabilities = measure(saved, way, tmp_path)
    tolerance = TOLERANCE if WAYS[way][2] == "float32" else HALF_TOLERANCE
    assert near(probabilities, saved.expected, tolerance)
    assert near(np.exp(-losses), of_labels(saved.expected, saved.labels), tolerance)


@pytest.mark.parametrize("cut", ["head", "top"])
def test_cached_outputs_move_no_bits(saved, tmp_path, cut):
    plain = measure(saved, next(way for way in WAYS if way.startswith(cut)), tmp_path / "plain")
    cached = measure(saved, f"{cut} on cached outputs", tmp_path / "cached")
    assert [a.tobytes() for a in plain] == [a.tobytes() for a in cached]
