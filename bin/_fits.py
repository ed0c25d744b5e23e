"""Tries whether a recipe's training fits in memory, or says what would; `_fitting` starts it."""

import _bootstrap

_bootstrap.ensure()

import signal
import sys

import _fitting
import _setup

from engine.specs import Recipe, UserError, from_json


def main(argv: list[str]) -> None:
    what, threads, recipe = argv[1], int(argv[2]) or None, from_json(Recipe, argv[3])
    # As an exception, that ends what was started here as well.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if what == _fitting.ADVISE:
        raise UserError(_fitting.advice(recipe, threads))
    raise SystemExit(_fitting.FITS if fits(recipe, threads) else _fitting.TOO_LARGE)


def fits(recipe: Recipe, threads: int | None) -> bool:
    _setup.start_tensorflow(threads, recipe.deterministic)

    from engine import fitting, replicas
    from pipelines import augment, sources

    classes = sources.listed(recipe.data).classes
    try:
        devices = replicas.strategy(_setup.gpus(), recipe.batch_size, recipe.accumulate)
    except UserError:  # pieces that can't be dealt out to the GPUs are none
        return False
    try:
        fitting.try_out(recipe, classes, augment.compose(recipe.augment), devices)
    except Exception as error:
        if not fitting.out_of_memory(error):
            raise
        return False
    return True


if __name__ == "__main__":
    sys.argv[0] = "train"  # as errors are to be headed
    _setup.main(main)
