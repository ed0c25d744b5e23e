"""From a recipe to examples that can be loaded: listed, scanned once, and cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.core.errors import UserError
from engine.core.recipe import DataSpec, Recipe
from engine.core.text import counted
from pipelines.decode import decode
from pipelines.doctor import quick_check
from pipelines.pixel_cache import scan
from pipelines.pixel_cache.build import PixelCacheBuilder, ScanResult
from pipelines.pixel_cache.cache import CacheLocation, PixelCache
from pipelines.pixel_cache.index import MISSING
from pipelines.pixel_cache.scan import BrokenImage
from pipelines.sources import manifest, sources
from pipelines.sources.examples import Examples

Log = Callable[[str], None]


def prepare_training_data(
    examples: Examples,
    recipe: Recipe,
    report: Path,
    threads: int,
    log: Log,
    location: CacheLocation | None = None,
) -> tuple[Examples, PixelCache | None]:
    """Excludes broken images, lists them in `report`, and caches the pixels of the others.

    Args:
      examples: the recipe's data, as `sources.load_examples` lists it.
      location: where pixels may be cached; None for nowhere.

    Returns:
      The examples, their `rows` those of the pixels, and the pixels, None where not cached.

    Raises:
      UserError: see `scan.exclude_broken`.
    """
    if location:
        result = _builder(examples, recipe, threads, log, location).build()
    else:
        result = _scan(examples, recipe, threads, log)
    missing, others = _split_off_missing(recipe.data, result)
    try:
        usable = scan.exclude_broken(
            result.examples, result.broken, report, recipe.data.on_bad_image
        )
    except UserError as error:
        if missing and others:
            raise UserError(f"{error}; besides, {missing}") from None
        if missing:
            raise UserError(f"{missing}; correct the paths; {report} lists all") from None
        raise
    if missing:
        log(f"left out: {missing}; listed in {report}")
    if others:
        are = counted(len(others), "broken image is", "broken images are")
        log(f"{are} left out, listed with the reasons in {report}")
    for line in quick_check.quick_check(recipe.data, usable, result.pixels):
        log(line)
    return usable, result.pixels


def prepare_evaluation_data(
    recipe: Recipe,
    classes: tuple[str, ...],
    split: str,
    threads: int,
    log: Log,
    location: CacheLocation | None = None,
) -> tuple[Examples, PixelCache | None]:
    """Lists one split of the recipe's data, or `all`, labelled as a model with these classes does.

    Args:
      location: where an earlier run may have cached the pixels; nothing is written there.

    Returns:
      As `prepare_training_data`.

    Raises:
      UserError: the data has a class that the model does not know, or no usable image.
    """
    examples = _relabel(sources.load_examples(recipe.data), classes)
    examples = examples if split == "all" else examples.subset(split)
    result = None
    if location:
        result = _builder(examples, recipe, threads, log, location).open_existing()
    if result is None:
        result = _scan(examples, recipe, threads, log)
    missing, others = _split_off_missing(recipe.data, result)
    if missing:
        log(f"left out: {missing}")
    for image in others:
        log(f"left out: {image.path}: {image.reason}")
    broken = np.array([image.index for image in result.broken], dtype=np.int64)
    rest = result.examples.without(broken)
    if result.broken and (recipe.data.on_bad_image == "fail" or not len(rest)):
        unusable = f"{len(broken):,} of {counted(len(result.examples), 'image', 'images')}"
        raise UserError(f"{unusable} can't be used; repair or remove what is named above")
    if not len(rest):
        raise UserError(f"--split={split}: the data has no such examples; give another --split")
    return rest, result.pixels


def _builder(
    examples: Examples, recipe: Recipe, threads: int, log: Log, location: CacheLocation
) -> PixelCacheBuilder:
    return PixelCacheBuilder(examples, recipe.image_size, recipe.resize, threads, log, location)


def _scan(examples: Examples, recipe: Recipe, threads: int, log: Log) -> ScanResult:
    """Decodes every image and caches none."""
    if len(examples) > 50_000:
        log(f"decoding {len(examples):,} images once, so that no broken one ends the training")
    arguments = *recipe.image_size, recipe.resize
    broken = scan.scan_images(examples, lambda text: decode.decode(text, *arguments), threads)
    return ScanResult(examples.replace(rows=np.full(len(examples), -1)), broken, None)


def _split_off_missing(spec: DataSpec, result: ScanResult) -> tuple[str, list[BrokenImage]]:
    """Returns a sentence about a manifest's files that do not exist, and the other broken images.

    There may be one for each row, where the manifest lies in another folder than it was made for.
    """
    missing = [image for image in result.broken if image.reason == MISSING]
    if spec.source != "manifest" or not missing:
        return "", result.broken
    paths = [image.path for image in missing]
    sentence = manifest.describe_missing(spec.location, paths, len(result.examples))
    return sentence, [image for image in result.broken if image.reason != MISSING]


def _relabel(examples: Examples, classes: tuple[str, ...]) -> Examples:
    unknown = [name for name in examples.classes if name not in classes]
    if unknown:
        raise UserError(
            f"class {unknown[0]!r} of the data is unknown to the model, which knows "
            f"{', '.join(classes)}; rename or remove that class"
        )
    labels = np.array([classes.index(name) for name in examples.classes], np.int32)
    return examples.replace(labels=labels[examples.labels], classes=classes)
