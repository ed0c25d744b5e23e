"""How many pieces a batch has to pass in, so that training fits in the memory there is.

Each number is tried in a process of its own: memory that was asked for once, or is torn into
pieces, would spoil the next try. That process is `_fits.py`, which a run that has no memory left
turns into as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

from engine.core.errors import UserError
from engine.core.recipe import Recipe, to_json
from engine.runs.directory import RunDirectory

FITS, TOO_LARGE = 0, 3
TRY, ADVISE = "try", "advise"
CHILD = "engine.commands.memory_probe_child"


def settle(recipe: Recipe, begun: RunDirectory | None, threads: int | None) -> Recipe:
    """The recipe with its batch in as few pieces as fit: what `--batch_size=auto` means.

    Args:
      begun: the run to go on with, if any, which passes its batches as it began.

    Raises:
      UserError: not even single images fit.
    """
    if begun and begun.started():
        return dataclasses.replace(
            recipe, gradient_accumulation_steps=begun.read_recipe().gradient_accumulation_steps
        )
    found = _fewest(recipe, threads, 1)
    if found is None:
        raise UserError(_hopeless(recipe))
    return dataclasses.replace(recipe, gradient_accumulation_steps=found)


@contextlib.contextmanager
def advising(recipe: Recipe, threads: int | None) -> Iterator[None]:
    """Where the block has no memory left, the process becomes another, which says what would fit.

    That gives all memory back, as nothing else does.
    """
    try:
        yield
    except Exception as error:
        from engine.training.memory_fit import out_of_memory

        if not out_of_memory(error):
            raise
        sys.stdout.flush()
        os.execv(sys.executable, _command(ADVISE, recipe, threads))


def pieces(batch_size: int) -> Iterator[int]:
    """1, and on to `batch_size` in numbers that divide it, each at least twice the one before."""
    last = 0.5
    for count in range(1, batch_size + 1):
        if batch_size % count == 0 and count >= 2 * last:
            last = count
            yield count


def advice(recipe: Recipe, threads: int | None) -> str:
    """What to say to somebody whose training does not fit."""
    found = _fewest(recipe, threads, 2 * recipe.gradient_accumulation_steps)
    if found is None:
        return _hopeless(recipe)
    size = recipe.batch_size // found
    return (
        f"batch_size={recipe.batch_size} with gradient_accumulation_steps={recipe.gradient_accumulation_steps} takes more memory "
        f"than there is, and {size} images at a time fit; give --gradient_accumulation_steps={found} (in a recipe "
        f'file "gradient_accumulation_steps": {found}), which makes the same updates, with another --run_dir or '
        "--overwrite"
    )


def _fewest(recipe: Recipe, threads: int | None, least: int) -> int | None:
    for count in pieces(recipe.batch_size):
        if count >= least and _fits(
            dataclasses.replace(recipe, gradient_accumulation_steps=count), threads
        ):
            return count
    return None


def _fits(recipe: Recipe, threads: int | None) -> bool:
    """Tries it in a fresh process.

    Raises:
      UserError: the try failed for another reason.
    """
    command = _command(TRY, recipe, threads)
    tried = subprocess.run(command, capture_output=True, text=True, errors="replace")
    # SIGKILL comes from the system where the machine itself has no memory left.
    if tried.returncode in (FITS, TOO_LARGE, -signal.SIGKILL):
        return tried.returncode == FITS
    lines = tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"]
    reason = lines[-1].removeprefix("train: ")
    raise UserError(f"what fits in memory can't be found out: {reason}")


def _command(what: str, recipe: Recipe, threads: int | None) -> list[str]:
    return [sys.executable, "-m", CHILD, what, str(threads or 0), to_json(recipe)]


def _hopeless(recipe: Recipe) -> str:
    height, width = recipe.image_size
    return (
        f"{recipe.backbone} at {height}x{width} takes more memory than there is, image by "
        "image even; give a smaller --backbone or --image_size, or a phase that opens less"
    )
