"""How many microbatches a batch needs so that training fits in memory.

Each number is tried in a process of its own, which runs this module: memory that was allocated
once, or is fragmented, would spoil the next trial. A run out of memory turns into one as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import NoReturn

from engine.core.errors import UserError
from engine.core.recipe import Recipe, from_json, to_json
from engine.runs.directory import RunDirectory
from engine.runtime import child_process, native_stderr, tensorflow_setup

FITS, TOO_LARGE = 0, 3
TRY, ADVISE = "try", "advise"
MODULE = "engine.commands.memory_probe"


class OutOfMemoryError(UserError):
    """Training by `recipe` ran out of memory."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(
            f"{_too_large(recipe)}; give more gradient_accumulation_steps, which makes the same "
            "updates, or a smaller batch_size"
        )
        self.recipe = recipe


def _too_large(recipe: Recipe) -> str:
    return (
        f"batch_size={recipe.batch_size} with gradient_accumulation_steps="
        f"{recipe.gradient_accumulation_steps} takes more memory than there is"
    )


def fit_accumulation_steps(
    recipe: Recipe, resumed: RunDirectory | None, threads: int | None
) -> Recipe:
    """The recipe with as few microbatches as fit in memory: what `--batch_size=auto` means.

    Args:
      resumed: the run to resume, if any, which keeps its microbatches.

    Raises:
      UserError: not even single images fit.
    """
    if resumed and resumed.started():
        return dataclasses.replace(
            recipe, gradient_accumulation_steps=resumed.read_recipe().gradient_accumulation_steps
        )
    count = _fewest_that_fit(recipe, threads, 1)
    if count is None:
        raise UserError(_nothing_fits(recipe))
    return dataclasses.replace(recipe, gradient_accumulation_steps=count)


@contextlib.contextmanager
def raise_out_of_memory(recipe: Recipe) -> Iterator[None]:
    """Raises:
    OutOfMemoryError: the block, which trains by this recipe, ran out of a device's memory.
    """
    try:
        yield
    except Exception as error:
        from engine.training.memory_fit import out_of_memory

        if not out_of_memory(error):
            raise
        raise OutOfMemoryError(recipe) from error


def become_adviser(recipe: Recipe, threads: int | None) -> NoReturn:
    """Turns this process into one that says which batch would fit, and ends with 1.

    That gives all memory back, as nothing else does.
    """
    sys.stdout.flush()
    command = _command(ADVISE, recipe, threads)
    os.execve(command[0], command, child_process.module_environment())


def microbatch_counts(batch_size: int) -> Iterator[int]:
    """Yields 1 and further divisors of `batch_size`, each at least twice the one before."""
    last = 0.5
    for count in range(1, batch_size + 1):
        if batch_size % count == 0 and count >= 2 * last:
            last = count
            yield count


def advice(recipe: Recipe, threads: int | None) -> str:
    """The error for training that does not fit: which number of microbatches would."""
    count = _fewest_that_fit(recipe, threads, 2 * recipe.gradient_accumulation_steps)
    if count is None:
        return _nothing_fits(recipe)
    size = recipe.batch_size // count
    return (
        f"{_too_large(recipe)}, and {size} images at a time fit; give "
        f'--gradient_accumulation_steps={count} (in a recipe file "gradient_accumulation_steps": '
        f"{count}), which makes the same updates, with another --run_dir or --overwrite"
    )


def _fewest_that_fit(recipe: Recipe, threads: int | None, minimum: int) -> int | None:
    for count in microbatch_counts(recipe.batch_size):
        if count >= minimum and _fits(
            dataclasses.replace(recipe, gradient_accumulation_steps=count), threads
        ):
            return count
    return None


def _fits(recipe: Recipe, threads: int | None) -> bool:
    """Tries it in a new process.

    Raises:
      UserError: the trial failed for another reason.
    """
    command = _command(TRY, recipe, threads)
    done = subprocess.run(
        command,
        env=child_process.module_environment(),
        capture_output=True,
        text=True,
        errors="replace",
    )
    # The system sends SIGKILL where the machine itself has no memory left.
    if done.returncode in (FITS, TOO_LARGE, -signal.SIGKILL):
        return done.returncode == FITS
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    reason = lines[-1].removeprefix("train: ")
    raise UserError(f"what fits in memory can't be measured: {reason}")


def _command(task: str, recipe: Recipe, threads: int | None) -> list[str]:
    return child_process.module_command(MODULE, task, str(threads or 0), to_json(recipe))


def _nothing_fits(recipe: Recipe) -> str:
    height, width = recipe.image_size
    return (
        f"{recipe.backbone} at {height}x{width} takes more memory than there is, even with one "
        "image at a time; give a smaller --backbone or --image_size, or a phase that trains less"
    )


def main(argv: list[str]) -> int:
    """The exit status; errors are headed as those of bin/train."""
    native_stderr.drop_decoder_noise()
    task, threads, recipe = argv[1], int(argv[2]) or None, from_json(Recipe, argv[3])
    for number in (signal.SIGINT, signal.SIGTERM):
        # As an exception, that ends what was started here as well.
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        if task == ADVISE:
            raise UserError(advice(recipe, threads))
        return FITS if _fits_here(recipe, threads) else TOO_LARGE
    except UserError as error:
        print(f"train: {error}", file=sys.stderr)
        return 1


def _fits_here(recipe: Recipe, threads: int | None) -> bool:
    """Whether training by the recipe fits in the memory of this machine's devices."""
    tensorflow_setup.start_tensorflow(threads, recipe.deterministic)

    from engine.runtime import distribution
    from engine.training import memory_fit
    from pipelines.augment import augmentations
    from pipelines.sources import sources

    classes = sources.list_examples(recipe.data).classes
    try:
        devices = distribution.choose_strategy(
            tensorflow_setup.list_gpus(), recipe.batch_size, recipe.gradient_accumulation_steps
        )
    except UserError:  # microbatches that can't be divided among the GPUs
        return False
    try:
        memory_fit.try_out(recipe, classes, augmentations.compose(recipe.augment), devices)
    except Exception as error:
        if not memory_fit.out_of_memory(error):
            raise
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv))
