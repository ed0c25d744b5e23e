"""What a run logs before its first step."""

import pytest

from engine.core.recipe import Phase
from engine.training import setup
from engine.training.job import TrainJob
from tests.engine import small

PHASES = (
    Phase("transfer", epochs=2),
    Phase("fine_tune", trainable="top", epochs=3, optimizer="adam"),
)


def described(classes: int = 3, **changes) -> str:
    names = tuple(f"class{number}" for number in range(classes))
    counts = {"class_counts": (50,) * classes, "validation_examples": 40}
    loader = small.replaced(small.InMemoryDataLoader(), classes=names, **counts)
    recipe = small.recipe(phases=PHASES, batch_size=32, **changes)
    job = TrainJob(recipe, small.network(), loader, small.PLAIN, run=None, logger=None)
    return "\n".join(setup.describe(job))


def test_description_lists_images_classes_variables_and_steps():
    assert described(precision="float32").splitlines() == [
        "150 training images, 40 validation images; 3 classes: class0, class1, class2",
        "mobilenet_v2 at 32x32, 483 parameters; batches of 32; float32",
        # By hand: 8 * 3 + 3 for the head; 4 * 3 * 3 * 8 + 8 and two times 8 for the stage.
        "phase transfer: trains head, 27 parameters in 2 variables; 2 x 5 steps, rmsprop",
        "phase fine_tune: trains top and above, 339 parameters in 6 variables; 3 x 5 steps, adam",
    ]


def test_description_lists_microbatches_and_precision():
    text = described(gradient_accumulation_steps=4, precision="auto")
    assert "; batches of 32, each in 4 microbatches; the fastest precision within tolerance" in text


@pytest.mark.parametrize(("classes", "end"), [(8, "class7"), (20, "class7, … (12 more)")])
def test_description_shortens_many_classes(classes, end):
    assert described(classes).splitlines()[0].endswith(end)
