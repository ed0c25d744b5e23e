"""One image, four ways: training, evaluation, prediction and the saved model agree on it.

The pixels agree bit for bit, for every kind of file at every odd size. So the numbers, which follow
from pixels alone, are compared for a file of each kind and of each size. They come out of programs
that differ (folded or not, cut or whole, batches of another size), which in float32 moves
probabilities by less than TOLERANCE; where the program is the same, so are the bits.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from engine.core.recipe import RESIZES, Recipe, parse_phase
from engine.evaluation import decision_rule, eval_step
from engine.frozen.array_store import CacheBudget
from engine.inference import predictions as prediction
from engine.inference import predictor
from engine.models import classifier
from engine.runs.best_model import BestModel
from engine.runs.checkpoints import TrainState
from engine.runs.directory import RunDirectory, claim_directory
from engine.runs.load_run import load_run
from engine.training import phase as stages
from engine.training.job import TrainJob
from pipelines.augment import augmentations
from pipelines.loading import batches
from pipelines.loading import prepare as ready
from pipelines.pixel_cache.cache import CacheLocation
from pipelines.predict.image_stream import ImageStream
from pipelines.sources.examples import TRAIN, VALIDATION, Examples, from_columns
from tests.engine.small import enliven
from tests.engine.small_runs import Watcher, small_recipe
from tests.pipelines import every_format
from tests.pipelines.every_format import KINDS, SIZES

TOLERANCE = 1e-5  # of probabilities, float32
CLASSES = ("a", "b", "c")
HALF_TOLERANCE = 0.1  # where the trunk computes with 8 bits
NOWHERE, PLENTY = CacheBudget(0), CacheBudget(10**9)


def recipe(folder, size=(32, 32), **changes) -> Recipe:
    """Nothing random in it."""
    return small_recipe(folder, augment="none", dropout=0.0, image_size=size, **changes)


def examples(paths: list[Path]) -> Examples:
    """The files twice over: to train on, and to validate on."""
    names, count = [str(path) for path in paths], len(paths)
    labels = [number % len(CLASSES) for number in range(count)]
    splits = [TRAIN] * count + [VALIDATION] * count
    return from_columns(names * 2, labels * 2, CLASSES, keys=names * 2, splits=splits)


def by_example(read, count: int) -> np.ndarray:
    """uint8 [count, H, W, 3]: the images of some batches, in the order of the examples."""
    found: dict[int, np.ndarray] = {}
    for batch in read:
        images = np.reshape(batch.inputs, (-1, *batch.inputs.shape[-3:]))
        found.update(zip(np.ravel(batch.examples).tolist(), images, strict=True))
    assert sorted(found) == list(range(count))
    return np.stack([found[number] for number in range(count)])


def as_predicted(paths: list[Path], made: Recipe) -> np.ndarray:
    read = list(ImageStream(list(map(str, paths)), made.image_size, made.resize, 2).groups(16))
    assert [problem for group in read for problem in group.problems if problem] == []
    return np.concatenate([group.images for group in read])


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
def test_the_pixels_are_the_same_bit_for_bit(all_files, tmp_path, resize, every):
    """To train on and to evaluate, from files and from what is kept; and as bin/predict reads."""
    files = all_files[::every]  # with 3 still every kind and every size
    count, made = len(files), recipe(tmp_path, (24, 40), resize=resize)
    want = as_predicted(files, made)
    assert len({image.tobytes() for image in want}) > 0.9 * count, "images that differ"
    for memory in (None, 10**9, 0):  # decoded each time, kept in memory, read from the disk
        data, pixels = examples(files), None
        if memory is not None:
            place = CacheLocation(tmp_path / "cache", memory)
            data, pixels = ready.prepare_training_data(
                data, made, tmp_path / "bad.csv", 2, print, place
            )
            pixels.wait()
            assert pixels.in_memory == bool(memory)
        loader = batches.ImageDataLoader(data, made, 2, pixels)
        steps = -(-count // made.batch_size)
        for read in (loader.train_batches(0, steps, 3), loader.split_batches("validation")):
            seen = by_example(read, count)
            apart = [p.name for p, a, b in zip(files, seen, want, strict=True) if (a != b).any()]
            assert not apart, f"memory={memory}"


@dataclasses.dataclass(frozen=True)
class Served:
    """A network that was saved as three runs, one for each way of resizing.

    job: its data are the files as each way resizes them, one after the other, N images in all.
    labels: int [N]. wanted: float64 [N, classes], what the saved network makes of them.
    found: what `measured` gave so far.
    """

    files: list[Path]
    runs: dict[str, RunDirectory]
    job: TrainJob
    labels: np.ndarray
    wanted: np.ndarray
    found: dict = dataclasses.field(default_factory=dict)

    def of(self, resize: str) -> np.ndarray:
        return np.split(self.wanted, len(RESIZES))[RESIZES.index(resize)]


class Rows:
    """Images, twice over, as `pipelines.pixel_cache.cache.PixelCache` gives them."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def take(self, rows) -> np.ndarray:
        return self.images[rows % len(self.images)]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Served:
    place = tmp_path_factory.mktemp("served")
    files = [
        every_format.write(place, kind, SIZES[number % len(SIZES)], number)
        for number, kind in enumerate(KINDS)
    ]
    recipes = {resize: recipe(place, resize=resize) for resize in RESIZES}
    images = np.concatenate([as_predicted(files, made) for made in recipes.values()])
    network = classifier.build(recipes["squash"], len(CLASSES))
    enliven(network.model)
    places = {}
    for resize, made in recipes.items():
        places[resize] = RunDirectory(place / resize)
        data = examples(files * len(RESIZES))
        loader = batches.ImageDataLoader(data, made, 2, Rows(images))
        job = TrainJob(made, network, loader, augmentations.compose(()), places[resize], Watcher())
        save(job)
    labels = data.subset("validation").labels
    return Served(files, places, job, labels, as_saved(places["squash"], images))


def save(job: TrainJob) -> None:
    """As a run does whose best model is that of now."""
    claim_directory(job.run, job.recipe, overwrite=False)
    best = BestModel(job.run, job.loader.classes)
    best.replace(job.classifier.model.weights)
    best.save(TrainState())


def as_saved(run: RunDirectory, images: np.ndarray) -> np.ndarray:
    """float64 [N, classes]: softmax of what Keras makes of the saved weights, nothing folded."""
    model = classifier.build(run.read_recipe(), len(CLASSES)).model
    with np.load(run.best) as file:
        model.set_weights([file[name] for name in sorted(set(file.files) - {"values"})])
    logits = np.asarray(model(images.astype(np.float32), training=False), np.float64)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def near(mine, wanted: np.ndarray, tolerance: float = TOLERANCE) -> bool:
    return float(np.abs(np.asarray(mine, np.float64) - wanted).max()) <= tolerance


def test_the_saved_network_tells_the_images_apart(served):
    """Else all would agree on them easily."""
    assert np.median(served.wanted.std(0)) > 1000 * TOLERANCE
    assert len(np.unique(served.wanted.argmax(-1))) > 1


@pytest.mark.parametrize(("resize", "batch_size"), list(zip(RESIZES, (1, 7, 32), strict=True)))
def test_evaluation_and_prediction_give_the_numbers_of_the_saved_network(
    served, resize, batch_size
):
    """From the files on, and whatever number of images shares a batch."""
    run, wanted = served.runs[resize], served.of(resize)
    model = predictor.from_run(run)
    files = list(map(str, served.files))
    read = ImageStream(files, model.image_size, model.resize, 2).groups(batch_size)
    answers = [dict(one.labels) for one in prediction.predict(model, read, batch_size, 3)]
    predicted = np.array([[answer[name] for name in CLASSES] for answer in answers])
    assert near(predicted, wanted)
    opened = load_run(run)
    loader = batches.ImageDataLoader(examples(served.files), opened.recipe, 2)
    step, read = eval_step.make_eval_step(opened.model), loader.split_batches("validation")
    losses, chances = evaluated(step, read)
    assert near(chances, wanted)
    assert near(predicted, chances, 1e-6), "folded alike"
    assert near(np.exp(-losses), given(wanted, served.labels[: len(wanted)]))


def evaluated(step, read) -> tuple[np.ndarray, np.ndarray]:
    """Each example's loss and probabilities, in their order."""
    rows = [
        [np.asarray(column)[np.asarray(batch.weights) > 0] for column in step(*batch[:2])]
        for batch in read
    ]
    losses, logits = (np.concatenate(column) for column in zip(*rows, strict=True))
    return losses, np.exp(decision_rule.log_probabilities(logits))


def given(chances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Those of the given labels."""
    return chances[np.arange(len(labels)), labels]


WAYS = {
    "head": ("head", NOWHERE, "float32"),
    "head on kept outputs": ("head", PLENTY, "float32"),
    "top on a frozen trunk": ("middle", NOWHERE, "float32"),
    "top on kept outputs": ("middle", PLENTY, "float32"),
    "all": ("all", NOWHERE, "float32"),
    "head on a trunk in half precision": ("head", NOWHERE, "mixed_bfloat16"),
}


def measured(served: Served, way: str, place: Path) -> tuple[np.ndarray, np.ndarray]:
    """Each example's loss as the train step has it, and its probabilities at an epoch's end."""
    if way not in served.found:
        trainable, cache_budget, precision = WAYS[way]
        phase = parse_phase(f"tune(trainable={trainable}, epochs=2, optimizer=sgd)")
        made = dataclasses.replace(served.job.recipe, phases=(phase,), precision=precision)
        job = dataclasses.replace(
            served.job, recipe=made, cache_budget=cache_budget, run=RunDirectory(place)
        )
        stage = stages.PhaseTrainer(job, phase, TrainState(), {})
        assert bool(stage.features) == (cache_budget is PLENTY)
        losses, chances = evaluated(stage.eval_step, stage.validation_batches())
        assert near(np.exp(-losses), given(chances, served.labels))
        served.found[way] = as_trained(stage, job), chances
    return served.found[way]


def as_trained(stage: stages.PhaseTrainer, job: TrainJob) -> np.ndarray:
    """Each example's loss: a step in which it alone counts, and which moves nothing."""
    if stage.features:
        stage.features.fill(0)
    losses = np.full(job.loader.train_examples, np.nan)
    alone = np.eye(job.recipe.batch_size, dtype=np.float32)
    for batch in stage.train_batches(0, job.steps_per_epoch, 1):
        for place in np.flatnonzero(batch.weights[0]):
            stage.step(batch._replace(weights=tf.constant(alone[place][None])), tf.zeros([1]))
            losses[batch.examples[0, place]] = stage.metrics.read().loss
            stage.metrics.reset()
    return losses


@pytest.mark.parametrize("way", WAYS)
def test_training_gives_the_numbers_of_the_saved_network(served, tmp_path, way):
    """Whatever is frozen, and whether the trunk's outputs are kept; half precision comes near."""
    losses, chances = measured(served, way, tmp_path)
    tolerance = TOLERANCE if WAYS[way][2] == "float32" else HALF_TOLERANCE
    assert near(chances, served.wanted, tolerance)
    assert near(np.exp(-losses), given(served.wanted, served.labels), tolerance)


@pytest.mark.parametrize("cut", ["head", "top"])
def test_kept_outputs_move_no_bits(served, tmp_path, cut):
    plain = next(way for way in WAYS if way.startswith(cut))
    for mine, kept in zip(
        measured(served, plain, tmp_path / "plain"),
        measured(served, f"{cut} on kept outputs", tmp_path / "kept"),
        strict=True,
    ):
        assert mine.tobytes() == kept.tobytes()
