"""What a run logs before its first step."""

import re

import pytest

from engine.core.dataset import DataLoader
from engine.core.recipe import Phase
from engine.models import freezing
from engine.optim.optimizers import OPTIMIZERS
from engine.training import summary
from tests.engine import small

PHASES = (
    Phase("transfer", epochs=2),
    Phase("fine_tune", trainable="top", epochs=3, optimizer="adam"),
)


def loader(classes: int = 3) -> DataLoader:
    names = tuple(f"class{number}" for number in range(classes))
    counts = {"class_counts": (50,) * classes, "validation_examples": 40, "test_examples": 0}
    return small.replaced(small.InMemoryDataLoader(), classes=names, **counts)


def described(phases=PHASES, classes=3, **changes) -> str:
    net = small.network()
    recipe = small.recipe(phases=phases, **changes)
    splits = [freezing.partition_model(net, phase.trainable) for phase in phases]
    return "\n".join(summary.describe(recipe, loader(classes), net, splits))


def memory(text: str) -> float:
    return float(re.search(r"about ([\d.]+) MB of memory", text)[1])


def test_summary_lists_images_classes_variables_and_steps():
    text = described(batch_size=32)
    assert "150 training images, 40 validation images; 3 classes: class0, class1, class2" in text
    # By hand: 8 * 3 + 3 for the head; 4 * 3 * 3 * 8 + 8 and two times 8 for the stage.
    assert "phase transfer: trains head, 27 parameters in 2 variables; 2 x 5 steps" in text
    assert "phase fine_tune: trains top and above, 339 parameters in 6 variables" in text
    assert "3 x 5 steps, adam" in text


def test_summary_lists_microbatches_and_precision():
    assert "; batches of 32; float32\n" in described(batch_size=32, precision="float32")
    text = described(batch_size=32, gradient_accumulation_steps=4, precision="auto")
    assert "; batches of 32, each in 4 microbatches; the fastest precision within tolerance" in text


def test_summary_shortens_many_classes():
    assert "class7, … (12 more)" in described(classes=20)


def test_memory_estimate_grows_with_batch_and_tail():
    everything = (Phase("all", trainable="all"),)
    head = (Phase("head"),)
    assert memory(described(everything, batch_size=4096)) > memory(described(head, batch_size=4096))
    assert memory(described(head, batch_size=8192)) > memory(described(head, batch_size=4096))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_slots_equal_keras(name):
    """Slots per variable, against the optimizer that Keras builds."""
    from engine.optim import optimizers

    net = small.network()
    phase = Phase("all", trainable="all", optimizer=name)
    options = {"momentum": 0.9} if name in ("sgd", "rmsprop") else {}
    variables = net.model.trainable_variables
    built = optimizers.build(phase, options, variables, scale_loss=False)
    slots = [variable for variable in built.variables if len(variable.shape)]
    assert len(slots) == summary.SLOTS[name] * len(variables)
