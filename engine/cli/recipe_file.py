"""A run from a `recipe.json`: all of it from the file, none of it from flags."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from engine.cli.parsed_flags import FlagError
from engine.core import digests
from engine.core.conversion import parse_json
from engine.core.errors import UserError
from engine.core.recipe import Recipe, digest, from_json
from engine.optim import phase_options
from engine.runs.directory import RunDirectory
from pipelines.augment import changes

HELP = (
    "recipe.json to train by, instead of all flags that describe a run; in the folder of a run "
    "also its plan.json, if that belongs to this very recipe, so that nothing is measured again"
)


@dataclasses.dataclass(frozen=True)
class RecipeFile:
    """What a file says of a run.

    name: of the run, where no directory is named.
    plan: what an earlier run of this recipe decided, the bytes of its `plan.json`.
    """

    recipe: Recipe
    name: str
    plan: bytes | None = None


def read(file: str) -> RecipeFile:
    """Reads a run that is named after its file, or after the run whose file it is.

    Raises:
      FlagError: the file can't be read or holds no recipe.
    """
    path = Path(os.path.expanduser(file)).absolute()
    run = RunDirectory(path.parent)
    of_run = path == run.recipe
    try:
        text = path.read_text("utf-8-sig")
        plan = _read_plan(run) if of_run else None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise FlagError(f"--recipe={file}: can't be read ({reason})") from None
    recipe = _parse(file, text)
    plan = plan if plan and _belongs_to(plan, recipe) else None
    return RecipeFile(recipe, path.parent.name if of_run else path.stem, plan)


def _read_plan(run: RunDirectory) -> bytes | None:
    """Returns the plan beside a run's recipe; says what does not match its digest."""
    try:
        digests.read(run.recipe)
        return digests.read(run.plan)
    except FileNotFoundError:
        return None
    except UserError as error:
        reason = str(error).partition(";")[0]
        print(f"{reason}; training by the recipe as it is, without plan.json", file=sys.stderr)
        return None


def _belongs_to(plan: bytes, recipe: Recipe) -> bool:
    """Whether a `plan.json` was made for this recipe, and not for what the file held before."""
    try:
        values = parse_json(plan.decode())
    except (UserError, UnicodeDecodeError):
        return False
    return isinstance(values, dict) and values.get("recipe") == digest(recipe)


def _parse(file: str, text: str) -> Recipe:
    try:
        recipe = from_json(Recipe, text)
        phase_options.check_recipe(recipe)
        changes.parse_changes(recipe.augment)
    except UserError as error:
        raise FlagError(
            f"--recipe={file}: no recipe of this version of Unfreeze ({error})"
        ) from None
    return recipe
