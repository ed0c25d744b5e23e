"""How a run went, in sentences: for the terminal, `result.json` and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from engine.core.text import command_line, counted, printable
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.intervals import difference
from engine.evaluation.mcnemar import mcnemar

IMPROVED = 0.02  # by which share the validation loss falls in an epoch where it still improves
OVERFITTED = 1.1  # times its minimum, where the validation loss has risen since
SIGNIFICANT = 0.05  # McNemar's p below which two models differ
MIN_CLASS_IMAGES = 20  # for training: with fewer, single images decide what a class looks like
MAX_HALF_WIDTH = 0.05  # of an accuracy's interval, before there are too few images


def verdict(
    history: Sequence[Mapping[str, Any]],
    evaluations: Mapping[str, Evaluation],
    class_counts: Mapping[str, int],
    run: str,
    head_right: np.ndarray | None = None,
) -> list[str]:
    """Returns a few sentences, what matters most first.

    Args:
      history: the rows of all epochs.
      evaluations: of the saved model, by split: `validation`, and `test` where there is one.
      class_counts: training images by class.
      run: its directory.
      head_right: bool [N], which validation images were right when the head alone was trained; None
        where the saved model is that one, or there was no such phase.
    """
    split, last = list(evaluations.items())[-1]
    return [
        *_compared_with_constant(split, last),
        *_compared_splits(**evaluations),
        _course(history, run),
        *_compared_with_head(evaluations["validation"], head_right),
        *_small_classes(class_counts),
        *_few_images(split, last),
    ]


def _compared_with_constant(split: str, evaluation: Evaluation) -> Iterator[str]:
    share = evaluation.confusion.sum(1).max() / evaluation.count
    if evaluation.accuracy_interval.low <= share:
        yield (
            f"The accuracy is not clearly above the {share:.1%} of the {split} images that have "
            "the most frequent class: look at the labels, and at more epochs or another learning "
            "rate."
        )


def _compared_splits(validation: Evaluation, test: Evaluation | None = None) -> Iterator[str]:
    if test is None:
        return
    low, high = difference(
        test.accuracy,
        test.accuracy_interval,
        validation.accuracy,
        validation.accuracy_interval,
    )
    gap = test.accuracy - validation.accuracy
    where = f"{abs(gap):.1%} {'above' if gap > 0 else 'below'} validation"
    if low <= 0 <= high:
        yield f"The accuracy on test is {where}, no more than chance explains."
    else:
        yield (
            f"The accuracy on test is {where}, more than chance explains: the two splits are of "
            "different images."
        )


def _course(history: Sequence[Mapping[str, Any]], run: str) -> str:
    lowest, last = min(history, key=lambda row: row["val_loss"]), history[-1]
    losses = f"from {lowest['val_loss']:.3g} to {last['val_loss']:.3g}"
    if last["val_loss"] > OVERFITTED * lowest["val_loss"]:
        since = f"since {lowest['phase']} epoch {lowest['epoch']}"
        if last["train_loss"] < lowest["train_loss"]:
            return (
                f"It overfitted: {since} the validation loss rose {losses} while the training loss "
                "fell; train for fewer epochs, or with more augmentation or images."
            )
        return f"It became worse: {since} the validation loss rose {losses}; lower learning_rate."
    earlier = [row for row in history[:-1] if row["phase"] == last["phase"]]
    if earlier and last["val_loss"] < (1 - IMPROVED) * min(row["val_loss"] for row in earlier):
        longer = (f"--init_from={run}", "--epochs=5", f"--run_dir={run}_longer")
        return f"It was still improving at its end; train longer: {command_line('train', *longer)}."
    return "The validation loss had settled by the end; there is no sign of overfitting."


def _compared_with_head(validation: Evaluation, head_right: np.ndarray | None) -> Iterator[str]:
    if head_right is None:
        return
    right = validation.right
    only = int((right & ~head_right).sum()), int((head_right & ~right).sum())
    chance = mcnemar(*only)
    if chance >= SIGNIFICANT:
        yield (
            f"The head alone was about as good on validation, {head_right.mean():.1%}: the saved "
            f"model has {only[0]} more right and {only[1]} more wrong, which chance explains "
            f"(p = {chance:.2g})."
        )


def _small_classes(counts: Mapping[str, int]) -> Iterator[str]:
    small = {name: count for name, count in counts.items() if count < MIN_CLASS_IMAGES}
    if small:
        name = min(small, key=small.__getitem__)
        classes = counted(len(small), "class has", "classes have")
        yield (
            f"{classes} fewer than {MIN_CLASS_IMAGES} training images, {printable(name)} the "
            f"fewest with {small[name]}: more of them help most."
        )


def _few_images(split: str, evaluation: Evaluation) -> Iterator[str]:
    low, high = evaluation.accuracy_interval
    if high - low > 2 * MAX_HALF_WIDTH:
        yield (
            f"{evaluation.count} {split} images are few: other images like these would give an "
            f"accuracy between {low:.1%} and {high:.1%}."
        )
