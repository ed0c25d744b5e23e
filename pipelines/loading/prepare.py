"""From a recipe to examples that can be trained on: listed, divided, and each looked at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.core.errors import UserError
from engine.core.recipe import DataSpec, Recipe
from engine.core.text import counted
from pipelines.decode.decode import decode
from pipelines.doctor import quick_check
from pipelines.pixel_cache import pixel_cache, scan
from pipelines.pixel_cache.pixel_plan import Job, Seen, plan
from pipelines.pixel_cache.scan import Broken
from pipelines.pixel_cache.stamps import MISSING
from pipelines.pixel_cache.store import CacheLocation, Pixels
from pipelines.sources import manifest, sources
from pipelines.sources.examples import Examples

Say = Callable[[str], None]


def prepare_training_data(
    examples: Examples,
    recipe: Recipe,
    report: Path,
    threads: int,
    say: Say,
    place: CacheLocation | None = None,
) -> tuple[Examples, Pixels | None]:
    """The sound ones, and their pixels; what is broken is listed in `report` and left out.

    Args:
      examples: the recipe's data, as `sources.load` lists it.
      place: where pixels may be kept; nowhere if not given.

    Returns:
      The examples, their `rows` those of the pixels, which are None where they are not kept.

    Raises:
      UserError: what `first_look.leave_out` finds.
    """
    if place:
        seen = pixel_cache.look(_plan(examples, recipe, threads, say, place))
    else:
        seen = _look(examples, recipe, threads, say)
    absent, others = _absent(recipe.data, seen)
    try:
        on_bad_image = recipe.data.on_bad_image
        sound = scan.leave_out(seen.examples, seen.broken, report, on_bad_image)
    except UserError as error:
        if absent and others:
            raise UserError(f"{error}; besides, {absent}") from None
        if absent:
            raise UserError(f"{absent}; correct the paths; {report} lists all") from None
        raise
    if absent:
        say(f"left out: {absent}; listed in {report}")
    if others:
        are = counted(len(others), "broken image is", "broken images are")
        say(f"{are} left out, listed with the reasons in {report}")
    for line in quick_check.quick_check(recipe.data, sound, seen.pixels):
        say(line)
    return sound, seen.pixels


def prepare_evaluation_data(
    recipe: Recipe,
    classes: tuple[str, ...],
    part: str,
    threads: int,
    say: Say,
    place: CacheLocation | None = None,
) -> tuple[Examples, Pixels | None]:
    """One part of the recipe's data, or `all` of it, labelled as a model with these classes does.

    Args:
      place: where an earlier run may have kept the pixels; nothing is written there.

    Returns:
      As `to_train`.

    Raises:
      UserError: the data has a class that the model does not know, or nothing is left to measure.
    """
    examples = _relabelled(sources.load_examples(recipe.data), classes)
    examples = examples if part == "all" else examples.subset(part)
    seen = pixel_cache.find(_plan(examples, recipe, threads, say, place)) if place else None
    if seen is None:
        seen = _look(examples, recipe, threads, say)
    absent, others = _absent(recipe.data, seen)
    if absent:
        say(f"left out: {absent}")
    for one in others:
        say(f"left out: {one.path}: {one.reason}")
    broken = np.array([one.index for one in seen.broken], dtype=np.int64)
    rest = seen.examples.without(broken)
    if seen.broken and (recipe.data.on_bad_image == "fail" or not len(rest)):
        unfit = f"{len(broken):,} of {counted(len(seen.examples), 'image', 'images')}"
        raise UserError(f"{unfit} can't be used; mend or remove what is named above")
    if not len(rest):
        raise UserError(f"--part={part}: the data has no such examples; give another --part")
    return rest, seen.pixels


def _absent(spec: DataSpec, seen: Seen) -> tuple[str, list[Broken]]:
    """What to say of a manifest's files that do not exist, empty if all do; and the other faults.

    There may be as many as rows, where the manifest lies in another folder than it was made for.
    """
    gone = [one for one in seen.broken if one.reason == MISSING]
    if spec.source != "manifest" or not gone:
        return "", seen.broken
    sentence = manifest.describe_missing(
        spec.location, [one.path for one in gone], len(seen.examples)
    )
    return sentence, [one for one in seen.broken if one.reason != MISSING]


def _plan(examples: Examples, recipe: Recipe, threads: int, say: Say, place: CacheLocation) -> Job:
    return plan(examples, recipe.image_size, recipe.resize, threads, say, place)


def _look(examples: Examples, recipe: Recipe, threads: int, say: Say) -> Seen:
    """Looks at every image and keeps none."""
    if len(examples) > 50_000:
        say(f"looking at {len(examples):,} images first, so that no broken one ends the training")
    size, resize = recipe.image_size, recipe.resize
    broken = scan.look(examples, lambda contents: decode(contents, *size, resize), threads)
    return Seen(examples.replace(rows=np.full(len(examples), -1)), broken, None)


def _relabelled(examples: Examples, classes: tuple[str, ...]) -> Examples:
    unknown = [name for name in examples.classes if name not in classes]
    if unknown:
        raise UserError(
            f"class {unknown[0]!r} of the data is unknown to the model, which knows "
            f"{', '.join(classes)}; rename or remove that class"
        )
    places = np.array([classes.index(name) for name in examples.classes], np.int32)
    return examples.replace(labels=places[examples.labels], classes=classes)
