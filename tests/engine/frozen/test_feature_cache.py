"""The cached outputs of a trunk: the content of each row, and when it is computed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from engine.core.call_syntax import parse_calls
from engine.frozen import trunk
from engine.frozen.array_store import CacheBudget
from engine.frozen.feature_cache import FeatureCache
from engine.frozen.forward import FrozenForward
from engine.frozen.precision import ComputeMode
from engine.frozen.view_schedule import ViewSchedule
from engine.models import freezing
from engine.runtime import stateless_random
from pipelines.augment import augmentations
from tests.engine import small

EXAMPLES, BATCH, SEED, FIRST = 10, 4, 9, 3  # FIRST: the phase's first epoch
GROUPS = 3
PLENTY = CacheBudget(10**9)
CONTINUOUS, MIRRORED, EIGHT = "rotate(30)|brightness(0.2)", "flip", "flip(0.3)|turn"
ALL_OUTCOMES = ViewSchedule(FIRST, None, 0.0, BATCH)


@dataclasses.dataclass
class Case:
    """A cache of the small network's lower half, and what it was built from."""

    cache: FeatureCache
    forward: FrozenForward
    loader: small.InMemoryDataLoader
    filled: list[int]  # the numbers of the batches that were read to fill rows

    def numbers(self, example: int, view: int) -> tf.Tensor:
        """The augmentation's numbers for one example alone, float32 [1, draws]."""
        columns = (tf.constant([view]), tf.constant([example]))
        draws = self.forward.augmentation.draws
        return stateless_random.uniform(SEED, stateless_random.AUGMENT, *columns, draws)

    def read(self, epoch: int, examples=None) -> tuple[np.ndarray, ...]:
        """The rows that the epoch's steps read for these examples, or for all."""
        examples = np.arange(EXAMPLES) if examples is None else np.array(examples)
        return self.cache.lookup(examples, self.cache.views(examples, epoch))


class OtherTrunk(FrozenForward):
    """Any function of images and numbers in the place of the trunk."""

    def __init__(self, augmentation, outputs, function) -> None:
        self.seed, self.augmentation, self.outputs = SEED, augmentation, outputs
        self.augmented = function


@pytest.fixture(scope="module")
def network():
    network = small.network()
    small.enliven(network.model)
    return network


@pytest.fixture
def make(network):
    def make(text=CONTINUOUS, views=None, policy="float32") -> Case:
        augmentation = augmentations.compose(parse_calls(text))
        partition = freezing.partition_model(network, "top")
        compiled = trunk.compile_frozen(partition.trunk, ComputeMode(policy))
        forward = FrozenForward(SEED, augmentation, compiled)
        loader, filled = small.InMemoryDataLoader(EXAMPLES, BATCH), []

        def split_batches(split, which=None):
            assert split == "train"
            filled.extend(which)
            return loader.split_batches(split, which)

        slots = views.count if views else augmentation.outcomes
        recorded = small.replaced(loader, split_batches=split_batches)
        cache = FeatureCache(recorded, forward, views or ALL_OUTCOMES, slots, PLENTY)
        return Case(cache, forward, loader, filled)

    return make


def in_turn(count=2, refresh=0.0) -> ViewSchedule:
    return ViewSchedule(FIRST, count, refresh, BATCH)


def same_bits(one, other) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_row_is_the_trunk_output_of_its_image_and_draws(make, policy):
    """Each computed alone, though in a batch of the same shape: bit for bit."""
    case = make(views=in_turn(2), policy=policy)
    dtype = tf.as_dtype(policy.removeprefix("mixed_"))
    for epoch in (FIRST, FIRST + 1, FIRST + 2):
        case.cache.fill(epoch)
        rows = case.read(epoch)[0]
        assert rows.dtype == {4: np.uint32, 2: np.uint16}[dtype.size]
        for example in range(EXAMPLES):
            alone = np.repeat(case.loader.images[example][None], BATCH, 0)
            numbers = tf.tile(case.numbers(example, FIRST + (epoch - FIRST) % 2), [BATCH, 1])
            expected = case.forward.augmented(alone, numbers)[0]
            assert expected.dtype == dtype
            assert rows[example].tobytes() == expected[0].numpy().tobytes()
    assert len({row.tobytes() for row in (*case.read(FIRST)[0], *case.read(FIRST + 1)[0])}) == (
        2 * EXAMPLES
    ), "else a row in another's place would not show"


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_restored_rows_have_shapes_and_types_of_the_trunk(make, policy):
    case = make(views=in_turn(2), policy=policy)
    case.cache.fill(FIRST)
    first, cache = FIRST * GROUPS, case.cache
    batch = next(iter(case.loader.train_batches(first, first + 1, 1, cache.views, cache.lookup)))
    restored = cache.restore(tf.nest.map_structure(lambda column: column[0], batch))
    shapes = [(tensor.shape[1:], tensor.dtype.name) for tensor in restored]
    assert shapes == case.forward.outputs
    rows = case.read(FIRST, batch.examples[0])[0]
    assert restored[0].numpy().tobytes() == rows.tobytes()


@pytest.mark.parametrize("text", ["none", MIRRORED, EIGHT])
def test_all_outcomes_cached_draw_as_without_a_cache(text):
    """The trunk does nothing, so that only the augmentation is compared."""
    augmentation = augmentations.compose(parse_calls(text))
    loader = small.InMemoryDataLoader(EXAMPLES, BATCH)
    outputs = [((small.SIDE, small.SIDE, 3), "float32")]
    forward = OtherTrunk(augmentation, outputs, lambda *inputs: [augmentation.apply(*inputs)])
    cache = FeatureCache(loader, forward, ALL_OUTCOMES, augmentation.outcomes, PLENTY)
    assert cache.enumerated
    different = set()
    for epoch in range(FIRST, FIRST + 6):
        cache.fill(epoch)
        steps = epoch * GROUPS, (epoch + 1) * GROUPS, GROUPS
        plain = next(iter(loader.train_batches(*steps)))
        cached = next(iter(loader.train_batches(*steps, ALL_OUTCOMES, cache.lookup)))
        assert np.array_equal(plain.examples, cached.examples)
        for step in range(GROUPS):
            numbers = forward.draw(plain.views[step], plain.examples[step])
            expected = augmentation.apply(plain.inputs[step], numbers).numpy()
            assert np.array_equal(cached.inputs[0][step].numpy().view(np.float32), expected)
            different |= {
                (int(plain.examples[step][row]), expected[row].tobytes()) for row in range(BATCH)
            }
    assert len(different) > EXAMPLES or text == "none", "the augmentation did something"


def test_all_outcomes_are_filled_once(make):
    case = make(EIGHT)
    assert not case.cache.is_filled(FIRST)
    for epoch in range(FIRST, 20):
        case.cache.fill(epoch)
    assert case.filled == [0, 1, 2] * 8


@pytest.mark.parametrize(("count", "refresh"), [(1, 0.0), (3, 0.0), (2, 0.2), (2, 0.5), (1, 1.0)])
def test_epoch_fills_only_the_rows_it_reads_and_lacks(make, count, refresh):
    case = make(views=in_turn(count, refresh))
    cached: dict[tuple[int, int], int] = {}  # (slot, group) -> view
    for epoch in range(FIRST, FIRST + 14):
        views = case.cache.views(np.arange(EXAMPLES), epoch)[::BATCH]
        slot = (epoch - FIRST) % count
        stale = [g for g in range(GROUPS) if cached.get((slot, g)) != views[g]]
        cached |= {(slot, group): int(views[group]) for group in range(GROUPS)}
        case.filled.clear()
        assert case.cache.is_filled(epoch) == (not stale)
        case.cache.fill(epoch)
        assert case.filled == stale
    assert len(cached) == count * GROUPS


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    ("text", "views"), [(CONTINUOUS, in_turn(2, 0.5)), (CONTINUOUS, in_turn(3)), (EIGHT, None)]
)
def test_resumed_run_reads_the_same_bits(make, text, views, policy):
    steady = make(text, views, policy)
    for epoch in range(FIRST, FIRST + 5):
        steady.cache.fill(epoch)
        resumed = make(text, views, policy)
        resumed.cache.fill(epoch)
        assert same_bits(resumed.read(epoch), steady.read(epoch))


def test_each_output_of_the_trunk_has_its_own_rows(make):
    case = make(views=in_turn(2))
    forward = OtherTrunk(
        case.forward.augmentation,
        [((3,), "float32"), ((1,), "float16")],
        lambda images, numbers: [
            tf.reduce_mean(tf.cast(images, tf.float32), [1, 2]),
            tf.cast(numbers[:, :1], tf.float16),
        ],
    )
    cache = FeatureCache(case.loader, forward, in_turn(2), 2, PLENTY)
    cache.fill(FIRST)
    means, numbers = cache.lookup(np.arange(EXAMPLES), np.full(EXAMPLES, FIRST, np.int32))
    for example in range(EXAMPLES):
        expected = case.loader.images[example].mean((0, 1))
        np.testing.assert_allclose(means[example].view(np.float32), expected, rtol=1e-5)
        first = np.float16(case.numbers(example, FIRST)[0, 0])
        assert numbers[example].view(np.float16) == first


def test_row_bytes_are_those_of_all_outputs_of_one_image():
    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32)])
    def trunk(images):
        pooled = tf.reduce_mean(images, [1, 2])
        return [images, tf.cast(images[:, :4], tf.float16), tf.cast(pooled, tf.bfloat16)]

    forward = FrozenForward(0, small.PLAIN, trunk)
    assert forward.outputs == [((8, 8, 3), "float32"), ((4, 8, 3), "float16"), ((3,), "bfloat16")]
    assert forward.row_bytes == 4 * 192 + 2 * 96 + 2 * 3
