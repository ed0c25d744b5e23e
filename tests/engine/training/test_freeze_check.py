"""Which variables moved, on a small network."""

from __future__ import annotations

import pytest
import tensorflow as tf

from engine.core.recipe import Phase
from engine.models import freezing
from engine.training.freeze_check import FreezeCheck
from tests.engine import small


class Case:
    """A small network at the start of a phase."""

    def __init__(self, **phase) -> None:
        self.net = small.network()
        kernel = self.variable("low_conv/kernel")
        kernel.assign(kernel * float("nan"))
        self.partition = freezing.partition_model(self.net, "top")
        phase = Phase("tune", "top", **phase)
        self.freeze_check = FreezeCheck(self.net.model, self.partition, phase)

    def variable(self, ending: str):
        return next(v for v in self.net.model.weights if v.path.endswith(ending))

    def move(self, *more: str, but: tuple[str, ...] = ()) -> None:
        """In place and compiled, as an optimizer does: the check must hold copies."""
        variables = [v for v in self.partition.variables if not v.path.endswith(but)]
        variables += map(self.variable, more)

        @tf.function
        def step():
            for variable in variables:
                variable.assign_add(tf.ones_like(variable))

        step()


@pytest.mark.parametrize(
    ("batch_norm", "more"), [("frozen", ()), ("train", ("top_norm/moving_variance",))]
)
def test_freeze_check_passes_where_what_trains_has_moved(batch_norm, more):
    """A NaN in a frozen variable has not moved."""
    case = Case(batch_norm=batch_norm)
    case.move(*more)
    assert case.freeze_check.check(trained=True) == []


def test_freeze_check_names_trainable_that_did_not_move():
    case = Case()
    case.move(but=("top_conv/bias", "logits/kernel"))
    assert case.freeze_check.check(trained=True) == [
        "phase 'tune': trainable variables did not move: top_conv/bias, logits/kernel"
    ]


def test_freeze_check_without_steps_passes():
    assert Case().freeze_check.check(trained=False) == []


@pytest.mark.parametrize(
    ("batch_norm", "name"),
    [
        ("frozen", "low_conv/bias"),
        ("frozen", "low_norm/gamma"),
        ("frozen", "top_norm/moving_mean"),
        ("train", "low_norm/moving_mean"),
    ],
)
def test_freeze_check_raises_where_frozen_moved(batch_norm, name):
    case = Case(batch_norm=batch_norm)
    case.move(name)
    with pytest.raises(RuntimeError, match=f"phase 'tune': frozen variables moved: {name}$"):
        case.freeze_check.check(trained=True)
