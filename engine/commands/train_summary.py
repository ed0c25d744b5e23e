"""The last lines of a run: its accuracy, and how to look at it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def describe_accuracy(result: dict[str, Any]) -> Iterator[str]:
    """Yields lines with the accuracies of a `result.json`.

    They are followed by the calibration and the verdict.

    An epoch is evaluated with its frozen layers in their fastest precision, and the saved model in
    float32: where these differ, both are given.
    """
    best, saved = result["best"], result["validation"]
    where = f"on validation, {best['phase']} epoch {best['epoch']}"
    epoch, model = f"{best['val_accuracy']:.2%}", _share(saved)
    same = model.startswith(f"{epoch} ")
    yield f"best: {model} {where}" if same else f"best: {epoch} {where}; saved in float32: {model}"
    if "test" in result:
        yield f"test: {_share(result['test'])}"
    yield _calibration(result["calibration"])
    yield from result["verdict"]


def _share(split: dict[str, Any]) -> str:
    low, high = split["accuracy_interval"]
    return f"{split['accuracy']:.2%} of {split['count']} (95%: {low:.1%} to {high:.1%})"


def _calibration(values: dict[str, float]) -> str:
    """Says whether the fitted temperature was saved; the errors are cross-fitted."""
    fitted = values["fitted_temperature"]
    errors = f"expected error {values['error_before']:.2%} without it, {values['error_after']:.2%}"
    if values["temperature"] == fitted:
        return f"calibration: temperature {fitted:.3f} saved; {errors} with it, cross-fitted"
    return (
        f"calibration: no temperature saved, since {fitted:.3f} does not improve it beyond noise; "
        f"{errors} with it, cross-fitted"
    )


def tensorboard_command(run: Path) -> str:
    """The command that shows a run, for a shell in the working directory."""
    return shlex.join([*_program(), f"--logdir={run}"])


def _program() -> list[str]:
    """TensorBoard of this environment, which need not be on the PATH."""
    program = Path(sys.executable).with_name("tensorboard")
    if not program.exists():  # some systems put programs elsewhere
        return [sys.executable, "-m", "tensorboard.main"]
    relative = os.path.relpath(program)
    # Without a slash a shell would look on the PATH, and through `..` links lead elsewhere.
    below = os.sep in relative and not relative.startswith(os.pardir)
    return [relative if below else str(program)]
