"""Tries in a process of its own whether training by a recipe fits in memory, or advises what would.

`memory_probe` starts it.
"""

from __future__ import annotations

import signal
import sys

from engine.commands import memory_probe
from engine.core.errors import UserError
from engine.core.recipe import Recipe, from_json
from engine.runtime import native_stderr, tensorflow_setup


def main(argv: list[str]) -> int:
    """The exit status; errors are headed as those of bin/train."""
    native_stderr.drop_decoder_noise()
    task, threads, recipe = argv[1], int(argv[2]) or None, from_json(Recipe, argv[3])
    for number in (signal.SIGINT, signal.SIGTERM):
        # As an exception, that ends what was started here as well.
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        if task == memory_probe.ADVISE:
            raise UserError(memory_probe.advice(recipe, threads))
        return memory_probe.FITS if fits(recipe, threads) else memory_probe.TOO_LARGE
    except UserError as error:
        print(f"train: {error}", file=sys.stderr)
        return 1


def fits(recipe: Recipe, threads: int | None) -> bool:
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
