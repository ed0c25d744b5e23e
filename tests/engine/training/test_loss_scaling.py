"""Loss scaling: float16 does not underflow, and steps that overflow are skipped."""

import types

import numpy as np

from engine.frozen.precision import ComputeMode
from tests.engine import small
from tests.engine.trainers import RATE, agree, moved, trainer


class TestLossScaling:
    half = types.MappingProxyType({"program": ComputeMode("mixed_float16"), "scale_loss": True})

    def test_loss_scale_without_overflow_changes_nothing(self):
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

    def test_overflow_skips_step_and_halves_scale(self):
        phase_trainer = trainer("top", **self.half)
        phase_trainer.optimizer.dynamic_scale.assign(2.0**100)
        before = small.values(phase_trainer.net.model.weights)
        phase_trainer.step(small.batch(), RATE)
        assert moved(phase_trainer.net.model, before) == set()
        assert float(phase_trainer.optimizer.dynamic_scale.numpy()) == 2.0**99
        phase_trainer.optimizer.dynamic_scale.assign(2.0**10)
        phase_trainer.step(small.batch(), RATE)
        assert len(moved(phase_trainer.net.model, before)) == 6
