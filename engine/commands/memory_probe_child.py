"""Tries whether a recipe's training fits in memory, or says what would; `_fitting` starts it."""

from __future__ import annotations

import signal
import sys

from engine.cli import main as cli_main
from engine.commands import memory_probe
from engine.core.errors import UserError
from engine.core.recipe import Recipe, from_json


def main(argv: list[str]) -> None:
    what, threads, recipe = argv[1], int(argv[2]) or None, from_json(Recipe, argv[3])
    # As an exception, that ends what was started here as well.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if what == memory_probe.ADVISE:
        raise UserError(memory_probe.advice(recipe, threads))
    raise SystemExit(memory_probe.FITS if fits(recipe, threads) else memory_probe.TOO_LARGE)


def fits(recipe: Recipe, threads: int | None) -> bool:
    cli_main.start_tensorflow(threads, recipe.deterministic)

    from engine.runtime import distribution
    from engine.training import memory_fit
    from pipelines.augment import augment
    from pipelines.sources import sources

    classes = sources.listed(recipe.data).classes
    try:
        devices = distribution.strategy(
            cli_main.gpus(), recipe.batch_size, recipe.gradient_accumulation_steps
        )
    except UserError:  # pieces that can't be dealt out to the GPUs are none
        return False
    try:
        memory_fit.try_out(recipe, classes, augment.compose(recipe.augment), devices)
    except Exception as error:
        if not memory_fit.out_of_memory(error):
            raise
        return False
    return True


if __name__ == "__main__":
    sys.argv[0] = "train"  # as errors are to be headed
    cli_main.main(main)
