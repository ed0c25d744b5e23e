"""Kept outputs of a trunk: what stands in each row, and when it is worked out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from engine.core.call_syntax import parse_calls
from engine.frozen import trunk
from engine.frozen.array_store import CacheBudget
from engine.frozen.feature_cache import FeatureCache, FeatureSource
from engine.frozen.forward import FrozenForward, make_frozen_forward
from engine.frozen.precision import ComputeMode
from engine.frozen.view_schedule import ViewSchedule
from engine.models import freezing
from engine.runtime import stateless_random
from pipelines.augment import augment
from tests.engine import small
from tests.engine.models.test_batchnorm_folding import apart

COUNT, SIZE, SEED, FIRST = 10, 4, 9, 3  # examples, in batches of 4; the phase's first epoch
GROUPS = 3
PLENTY = CacheBudget(10**9)
FREE, MIRRORED, EIGHT = "rotate(30)|brightness(0.2)", "flip", "flip(0.3)|turn"


@dataclasses.dataclass
class Made:
    """Features of the small network's lower half, and what they were made of."""

    kept: FeatureCache
    frozen_forward: FrozenForward
    change: augment.Augmentation
    cut: freezing.ModelPartition
    loader: object
    filled: list  # the numbers of the batches that were read to fill rows


def make(text=FREE, views=None, policy="float32", cache_budget=PLENTY, net=None) -> Made:
    recipe = small.recipe(seed=SEED, batch_size=SIZE)
    change = augment.compose(parse_calls(text))
    if net is None:
        net = small.network()
        small.enliven(net.model)
    cut = freezing.partition_model(net, "top")
    frozen_forward = make_frozen_forward(
        recipe, change, trunk.specialise(cut.trunk, ComputeMode(policy))
    )
    loader, filled = small.data_loader(COUNT, SIZE), []

    def once(part, which=None):
        assert part == "train"
        filled.extend(which)
        return loader.once(part, which)

    source = FeatureSource(
        dataclasses.replace(loader, once=once), frozen_forward.augmented, change, recipe.seed
    )
    slots = views.count if views else change.outcomes
    views = views or ViewSchedule(FIRST, None, 0.0, SIZE)
    kept = FeatureCache(
        source, views, slots, frozen_forward.outputs, dataclasses.replace(cache_budget)
    )
    return Made(kept, frozen_forward, change, cut, loader, filled)


def in_turn(count=2, refresh=0.0) -> ViewSchedule:
    return ViewSchedule(FIRST, count, refresh, SIZE)


def image(made: Made, example: int) -> np.ndarray:
    batches = made.loader.once("train")
    return np.concatenate([np.array(batch.inputs) for batch in batches])[example]


def drawn(made: Made, example: int, view: int) -> tf.Tensor:
    """The augmentation's numbers for one example alone, float32 [1, draws]."""
    columns = (tf.constant([view]), tf.constant([example]))
    return stateless_random.uniform(SEED, stateless_random.AUGMENT, *columns, made.change.draws)


def read(made: Made, epoch: int, examples=None) -> tuple[np.ndarray, ...]:
    """What the epoch's steps would get for these examples, or for all."""
    examples = np.arange(COUNT) if examples is None else np.array(examples)
    return made.kept.lookup(examples, made.kept.views(examples, epoch))


def same_bits(one, other) -> bool:
    pairs = zip(one, other, strict=True)
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_row_is_what_the_trunk_makes_of_the_image_and_its_draws(policy):
    """Each worked out alone, though in a batch of the same shape: bit for bit."""
    made = make(views=in_turn(2), policy=policy)
    dtype = tf.as_dtype(policy.removeprefix("mixed_"))
    for epoch in (FIRST, FIRST + 1, FIRST + 2):
        made.kept.prepare(epoch)
        rows = read(made, epoch)[0]
        assert rows.dtype == {4: np.uint32, 2: np.uint16}[dtype.size]
        for example in range(COUNT):
            alone = np.repeat(image(made, example)[None], SIZE, 0)
            numbers = tf.tile(drawn(made, example, FIRST + (epoch - FIRST) % 2), [SIZE, 1])
            expected = made.frozen_forward.augmented(alone, numbers)[0]
            assert expected.dtype == dtype
            assert rows[example].tobytes() == expected[0].numpy().tobytes()


def test_and_that_is_what_keras_makes_of_them():
    made = make(views=in_turn(1))
    made.kept.prepare(FIRST)
    images = np.stack([image(made, example) for example in range(COUNT)])
    numbers = tf.concat([drawn(made, example, FIRST) for example in range(COUNT)], 0)
    expected = made.cut.trunk(made.change.apply(tf.constant(images), numbers), training=False)
    assert apart(read(made, FIRST)[0].view(np.float32), expected) < 1e-5


def test_restored_they_are_tensors_as_the_trunk_gives_them():
    for policy in ("float32", "mixed_bfloat16"):
        made = make(views=in_turn(2), policy=policy)
        made.kept.prepare(FIRST)
        first = FIRST * GROUPS
        lookup = made.kept.lookup
        batch = next(iter(made.loader.train(first, first + 1, 1, made.kept.views, lookup)))
        restored = made.kept.restore(tf.nest.map_structure(lambda column: column[0], batch))
        shapes = [(tensor.shape[1:], tensor.dtype.name) for tensor in restored]
        assert shapes == made.frozen_forward.outputs
        rows = read(made, FIRST, batch.examples[0])[0]
        assert restored[0].numpy().tobytes() == rows.tobytes()


@pytest.mark.parametrize("text", ["", MIRRORED, EIGHT])
def test_of_few_outcomes_an_epoch_sees_just_what_it_would_without_a_cache(text):
    """The trunk being one that does nothing, so that nothing but the augmentation is compared."""
    made = make(text or "none")
    change, shape = made.change, (small.SIDE, small.SIDE, 3)
    source = dataclasses.replace(
        made.kept.source, frozen_forward=lambda images, numbers: [change.apply(images, numbers)]
    )
    views = ViewSchedule(FIRST, None, 0.0, SIZE)
    kept = FeatureCache(source, views, change.outcomes, [(shape, "float32")], CacheBudget(10**6))
    assert kept.enumerated
    different = set()
    for epoch in range(FIRST, FIRST + 6):
        kept.prepare(epoch)
        steps = epoch * GROUPS, (epoch + 1) * GROUPS, GROUPS
        plain = next(iter(made.loader.train(*steps)))
        cached = next(iter(made.loader.train(*steps, views, kept.lookup)))
        assert np.array_equal(plain.examples, cached.examples)
        for step in range(GROUPS):
            numbers = stateless_random.uniform(
                SEED,
                stateless_random.AUGMENT,
                plain.views[step],
                plain.examples[step],
                change.draws,
            )
            expected = change.apply(plain.inputs[step], numbers).numpy()
            assert np.array_equal(cached.inputs[0][step].numpy().view(np.float32), expected)
            different |= {
                (int(plain.examples[step][row]), expected[row].tobytes()) for row in range(SIZE)
            }
    assert len(different) > COUNT or not text, "the augmentation did something"


def test_so_it_does_below_a_trunk():
    made = make(EIGHT)
    made.kept.prepare(FIRST)
    plain = next(iter(made.loader.train(FIRST * GROUPS, FIRST * GROUPS + 1)))
    batch = tf.nest.map_structure(lambda column: column[0], plain)
    rows = made.kept.lookup(np.array(batch.examples), np.array(batch.views))
    assert apart(rows[0].view(np.float32), made.frozen_forward.drawn(batch)[0]) < 1e-6


def test_all_outcomes_are_filled_once_and_never_again():
    made = make(EIGHT)
    assert made.kept.prepare(FIRST) == 8 * COUNT
    assert made.filled == [0, 1, 2] * 8
    assert [made.kept.prepare(epoch) for epoch in range(FIRST, 20)] == [0] * (20 - FIRST)
    assert len(made.filled) == 24


@pytest.mark.parametrize(("count", "refresh"), [(1, 0.0), (3, 0.0), (2, 0.2), (2, 0.5), (1, 1.0)])
def test_only_what_the_epoch_reads_and_is_not_there_is_filled(count, refresh):
    made = make(views=in_turn(count, refresh))
    there: dict[tuple[int, int], int] = {}  # (slot, group) -> view
    for epoch in range(FIRST, FIRST + 14):
        views = made.kept.views(np.arange(COUNT), epoch)[::SIZE]
        slot = (epoch - FIRST) % count
        stale = [g for g in range(GROUPS) if there.get((slot, g)) != views[g]]
        there |= {(slot, group): int(views[group]) for group in range(GROUPS)}
        made.filled.clear()
        sizes = [SIZE, SIZE, COUNT - 2 * SIZE]
        assert made.kept.prepare(epoch) == sum(sizes[group] for group in stale)
        assert made.filled == stale
    assert len(there) == count * GROUPS


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(
    ("text", "views"), [(FREE, in_turn(2, 0.5)), (FREE, in_turn(3)), (EIGHT, None)]
)
def test_a_run_that_is_taken_up_reads_the_same_bits(text, views, policy):
    net = small.network()
    small.enliven(net.model)
    steady = make(text, views, policy, net=net)
    for epoch in range(FIRST, FIRST + 6):
        steady.kept.prepare(epoch)
        fresh = make(text, views, policy, net=net)
        fresh.kept.prepare(epoch)
        assert same_bits(read(fresh, epoch), read(steady, epoch))


@pytest.mark.parametrize(("text", "views"), [(FREE, in_turn(2, 0.5)), (EIGHT, None)])
def test_on_disk_they_are_what_they_are_in_memory(text, views, tmp_path):
    net = small.network()
    memory = make(text, views, net=net)
    disk = make(text, views, cache_budget=CacheBudget(0, tmp_path), net=net)
    assert [table.mapping is None for made in (memory, disk) for table in made.kept.tables] == [
        True,
        False,
    ]
    for epoch in range(FIRST, FIRST + 4):
        assert memory.kept.prepare(epoch) == disk.kept.prepare(epoch)
        assert same_bits(read(memory, epoch), read(disk, epoch))


def test_views_differ_where_draws_do():
    """Else none of the above would notice a row in another's place."""
    made = make(views=in_turn(2))
    rows = []
    for epoch in (FIRST, FIRST + 1):
        made.kept.prepare(epoch)
        rows += [row.tobytes() for row in read(made, epoch)[0]]
    assert len(set(rows)) == 2 * COUNT


def test_several_tensors_have_a_table_each():
    made = make(views=in_turn(2))
    source = dataclasses.replace(
        made.kept.source,
        frozen_forward=lambda images, numbers: [
            tf.reduce_mean(tf.cast(images, tf.float32), [1, 2]),
            tf.cast(numbers[:, :1], tf.float16),
        ],
    )
    outputs = [((3,), "float32"), ((1,), "float16")]
    kept = FeatureCache(source, in_turn(2), 2, outputs, CacheBudget(10**6))
    kept.prepare(FIRST)
    means, numbers = kept.lookup(np.arange(COUNT), np.full(COUNT, FIRST, np.int32))
    for example in range(COUNT):
        expected = image(made, example).mean((0, 1))
        np.testing.assert_allclose(means[example].view(np.float32), expected, rtol=1e-5)
        first = np.float16(drawn(made, example, FIRST)[0, 0])
        assert numbers[example].view(np.float16) == first


def test_without_room_there_are_none():
    with pytest.raises(OSError, match="do not fit"):
        make(views=in_turn(2), cache_budget=CacheBudget(100))
