"""Dropout: each example's mask depends on its number, epoch and seed alone."""

import dataclasses

import keras
import numpy as np
import pytest
from scipy import special

from engine.frozen.precision import ComputeMode
from engine.runtime import stateless_random
from engine.training import train_step
from tests.engine import small
from tests.engine.trainers import FLOAT32, RATE, trainer


class TestDropout:
    recipe = small.recipe(dropout=0.3, seed=2)

    def mask(self, batch, recipe=None):
        return train_step.dropout_mask(recipe or self.recipe, batch, 400).numpy()

    def test_mask_follows_example(self):
        batch, order = small.batch(), [3, 0, 5, 1, 4, 2]
        shuffled = self.mask(small.taken(batch, order))
        assert np.array_equal(shuffled, self.mask(batch)[order])

    def test_mask_draws_differ_from_augmentation(self):
        batch = small.batch()
        own, others = (
            stateless_random.uniform(2, stream, batch.epochs, batch.examples, 400).numpy() >= 0.3
            for stream in (stateless_random.DROPOUT, stateless_random.AUGMENT)
        )
        assert np.array_equal(self.mask(batch) > 0, own)
        assert not np.array_equal(own, others)

    def test_mask_differs_by_example_epoch_and_seed(self):
        batch = small.batch()
        later = batch._replace(epochs=batch.epochs + 1)
        other = dataclasses.replace(self.recipe, seed=3)
        masks = np.concatenate([self.mask(batch), self.mask(later), self.mask(batch, recipe=other)])
        assert len(np.unique(masks, axis=0)) == 18

    def test_mask_preserves_mean(self):
        kept = self.mask(small.batch())
        assert set(np.unique(kept)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
        # 2,400 draws: the share is within four standard deviations
        assert abs((kept == 0).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / kept.size)

    def test_no_mask_without_dropout(self):
        assert train_step.dropout_mask(small.recipe(), small.batch(), 400) is None

    def test_mask_is_independent_of_view(self):
        """Otherwise each cached view would always lose the same features."""
        batch = small.batch()
        assert np.array_equal(self.mask(batch._replace(views=batch.views + 1)), self.mask(batch))

    @pytest.mark.parametrize(
        ("program", "tolerance"),
        [
            (FLOAT32, 1e-6),
            (ComputeMode("mixed_bfloat16"), 1e-3),
            (ComputeMode("mixed_float16"), 1e-4),
        ],
        ids=str,
    )
    def test_step_with_dropout_equals_numpy(self, program, tolerance):
        """Half precision rounds the features, of 0 to 1, by up to a 512th and a 4096th."""
        net, batch = small.network(hidden_units=40), small.batch()
        before = small.values(net.head.weights)
        x = np.array(
            keras.Model(net.model.inputs[0], net.vector)(np.array(batch.inputs, np.float32))
        )
        x = x * train_step.dropout_mask(self.recipe, batch, 40).numpy()
        difference = special.softmax(x @ before[0] + before[1], -1) - np.eye(3)[batch.labels]
        phase_trainer = trainer(net=net, recipe=self.recipe, program=program)
        phase_trainer.step(batch, RATE)
        expected = before[1] - 0.1 * difference.mean(0)
        np.testing.assert_allclose(net.head.weights[1], expected, atol=tolerance)
