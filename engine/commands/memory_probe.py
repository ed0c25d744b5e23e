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
from typing import NoReturn

from engine.core.errors import UserError
from engine.core.recipe import Recipe, to_json
from engine.runs.directory import RunDirectory
from engine.runtime import child_process

FITS, TOO_LARGE = 0, 3
TRY, ADVISE = "try", "advise"
CHILD = "engine.commands.memory_probe_child"


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
    """The recipe with its batch in as few pieces as fit: what `--batch_size=auto` means.

    Args:
      resumed: the run to go on with, if any, which passes its batches as it began.

    Raises:
      UserError: not even single images fit.
    """
    if resumed and resumed.started():
        return dataclasses.replace(
            recipe, gradient_accumulation_steps=resumed.read_recipe().gradient_accumulation_steps
        )
    found = _fewest(recipe, threads, 1)
    if found is None:
        raise UserError(_hopeless(recipe))
    return dataclasses.replace(recipe, gradient_accumulation_steps=found)


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
        f"{_too_large(recipe)}, and {size} images at a time fit; give "
        f'--gradient_accumulation_steps={found} (in a recipe file "gradient_accumulation_steps": '
        f"{found}), which makes the same updates, with another --run_dir or --overwrite"
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
    tried = subprocess.run(
        command,
        env=child_process.module_environment(),
        capture_output=True,
        text=True,
        errors="replace",
    )
    # SIGKILL comes from the system where the machine itself has no memory left.
    if tried.returncode in (FITS, TOO_LARGE, -signal.SIGKILL):
        return tried.returncode == FITS
    lines = tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"]
    reason = lines[-1].removeprefix("train: ")
    raise UserError(f"what fits in memory can't be found out: {reason}")


def _command(what: str, recipe: Recipe, threads: int | None) -> list[str]:
    return child_process.module_command(CHILD, what, str(threads or 0), to_json(recipe))


def _hopeless(recipe: Recipe) -> str:
    height, width = recipe.image_size
    return (
        f"{recipe.backbone} at {height}x{width} takes more memory than there is, image by "
        "image even; give a smaller --backbone or --image_size, or a phase that opens less"
    )
