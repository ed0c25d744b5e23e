"""A run that begins from a `recipe.json`: all of it from the file, none of it from flags."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from engine.cli import flags as cli_flags
from engine.core.conversion import parse_json
from engine.core.errors import UserError
from engine.core.recipe import Recipe, digest, from_json
from engine.optim import options
from engine.runs.directory import RunDirectory
from pipelines.augment import augment

HELP = (
    "a recipe.json, in place of all flags that describe a run; with the plan.json of the run that "
    "it lies in, if that is of this very recipe, so that nothing is measured anew"
)


@dataclasses.dataclass(frozen=True)
class Beginning:
    """What a run begins with.

    name: of the run, where no directory is named.
    plan: what an earlier run of this recipe decided, the bytes of its `plan.json`.
    """

    recipe: Recipe
    name: str
    plan: bytes | None = None


def read(file: str, given: Iterable[str]) -> Beginning:
    """The run that a file describes, named after it, or after the run that it lies in.

    Args:
      given: the flags that were given beside it.

    Raises:
      FlagError: the file can't be read or holds no recipe, or a flag would change the recipe.
    """
    for name in cli_flags.of_a_recipe():
        if name in given:
            raise cli_flags.FlagError(
                f"--{name} goes into the recipe, which --recipe gives whole; leave it out, or edit "
                "a copy of the file"
            )
    path = Path(os.path.expanduser(file)).absolute()
    run = RunDirectory(path.parent)
    own = path == run.recipe
    try:
        text = path.read_text("utf-8-sig")
        plan = run.plan.read_bytes() if own and run.plan.exists() else None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise cli_flags.FlagError(f"--recipe={file}: can't be read ({reason})") from None
    recipe = _recipe(file, text)
    plan = plan if plan and _is_of(plan, recipe) else None
    return Beginning(recipe, path.parent.name if own else path.stem, plan)


def _is_of(plan: bytes, recipe: Recipe) -> bool:
    """Whether a `plan.json` was made for this recipe, and not for what the file held before."""
    try:
        values = parse_json(plan.decode())
    except (UserError, UnicodeDecodeError):
        return False
    return isinstance(values, dict) and values.get("recipe") == digest(recipe)


def _recipe(file: str, text: str) -> Recipe:
    try:
        recipe = from_json(Recipe, text)
        options.check(recipe)
        augment.changes(recipe.augment)
    except UserError as error:
        raise cli_flags.FlagError(
            f"--recipe={file}: no recipe of this version of Unfreeze ({error})"
        ) from None
    return recipe
