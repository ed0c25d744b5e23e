"""From a recipe to examples that can be loaded: listed, scanned once, and cached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.core.errors import UserError
from engine.core.files import write_csv
from engine.core.recipe import DataSpec, Recipe
from engine.core.text import counted
from pipelines.doctor import quick_check
from pipelines.pixel_cache.build import PixelCacheBuilder, ScanResult
from pipelines.pixel_cache.cache import NOWHERE, CacheLocation, PixelCache
from pipelines.pixel_cache.index import MISSING
from pipelines.pixel_cache.scan import BrokenImage
from pipelines.sources import manifest, sources
from pipelines.sources.examples import SPLITS, TRAIN, Examples, as_printed
from pipelines.sources.find_images import describe_passed_over
from pipelines.sources.validate import missing_classes

MISSING_CLASSES = "missing_classes.csv"

Log = Callable[[str], None]


def prepare_training_data(
    examples: Examples,
    recipe: Recipe,
    report: Path,
    threads: int,
    log: Log,
    location: CacheLocation = NOWHERE,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[Examples, PixelCache | None]:
    """Excludes broken images, lists them in `report`, and caches the pixels of the others.

    Classes that a split lacks are listed in `missing_classes.csv` beside it.

    Args:
      examples: the recipe's data, as `sources.load_examples` lists it.
      location: where pixels may be cached.
      cancelled: whether to give up, asked now and then.

    Returns:
      The examples, their `rows` those of the pixels, and the pixels, None where not cached.

    Raises:
      UserError: see `exclude_broken`. InterruptedError: it was cancelled.
    """
    _report_passed_over(examples, log)
    result = PixelCacheBuilder(examples, recipe, threads, log, location, cancelled).build()
    missing, others = _split_off_missing(recipe.data, result)
    try:
        usable = exclude_broken(result.examples, result.broken, report, recipe.data.on_bad_image)
    except UserError as error:
        raise UserError(f"{missing}; {error}" if missing else str(error)) from None
    if missing:
        log(f"left out: {missing}; listed in {report}")
    if others:
        are = counted(len(others), "broken image is", "broken images are")
        log(f"{are} left out, listed with the reasons in {report}")
    _report_missing_classes(usable, report.with_name(MISSING_CLASSES), log)
    for line in quick_check.quick_check(recipe.data, usable, result.pixels):
        log(line)
    return usable, result.pixels


def prepare_evaluation_data(
    recipe: Recipe,
    classes: tuple[str, ...],
    split: str,
    threads: int,
    log: Log,
    location: CacheLocation = NOWHERE,
) -> tuple[Examples, PixelCache | None]:
    """Lists one split of the recipe's data, or `all`, labelled as a model with these classes does.

    Args:
      location: where an earlier run may have cached the pixels; nothing is written there.

    Returns:
      As `prepare_training_data`.

    Raises:
      UserError: the data has a class that the model does not know, or no usable image.
    """
    examples = _relabel(sources.load_split(recipe.data, split), classes)
    _report_passed_over(examples, log)
    result = PixelCacheBuilder(examples, recipe, threads, log, location).open_existing()
    result = result or PixelCacheBuilder(examples, recipe, threads, log).build()
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
    if not len(rest) and split == "all":
        raise UserError(f"{recipe.data.location} has no images; name others, as with --data_dir")
    if not len(rest):
        raise UserError(f"--split={split}: the data has no such examples; give another --split")
    return rest, result.pixels


def exclude_broken(
    examples: Examples, broken: list[BrokenImage], report: Path, on_bad_image: str
) -> Examples:
    """Writes the report and returns the examples without the broken ones.

    Args:
      report: path of a CSV file with a row for each broken image.
      on_bad_image: `skip`, or `fail` to end the run at the first broken image.

    Raises:
      UserError: there are broken ones and they are not to be skipped; or a class loses all its
        training images, or another split all of its own.
    """
    write_csv(
        report,
        ("path", "reason"),
        [{"path": image.path, "reason": image.reason} for image in broken],
    )
    if broken and on_bad_image == "fail":
        first = broken[0]
        raise UserError(
            f"{len(broken)} of {len(examples)} images can't be used, the first is {first.path} "
            f"({first.reason}); all are listed in {report}; repair or remove them, "
            "or use --on_bad_image=skip"
        )
    rest = examples.without(np.array([image.index for image in broken], dtype=np.int64))
    before, after = (some.subset(SPLITS[TRAIN]).class_counts() for some in (examples, rest))
    for name, had, left in zip(examples.classes, before, after, strict=True):
        if had and not left:
            raise _no_usable(f"of class {name!r} in train", had, report)
    for split, had, left in zip(SPLITS, examples.split_counts(), rest.split_counts(), strict=True):
        if had and not left:
            raise _no_usable(f"in {split}", had, report)
    return rest


def _no_usable(what: str, count: int, report: Path) -> UserError:
    return UserError(
        f"no image {what} can be used, of {count:,}; {report} lists all with the reasons; "
        "replace them"
    )


def _report_passed_over(examples: Examples, log: Log) -> None:
    if line := describe_passed_over(examples.passed_over):
        log(line)


def _report_missing_classes(examples: Examples, file: Path, log: Log) -> None:
    file.unlink(missing_ok=True)
    missing = missing_classes(examples)
    if missing:
        write_csv(file, ("split", "class"), [{"split": s, "class": name} for s, name in missing])
    for split, count in Counter(split for split, _ in missing).items():
        log(
            f"note: {split} has no images of {count:,} of the {len(examples.classes):,} classes, "
            f"listed in {file}; their recall is not measured"
        )


def _split_off_missing(spec: DataSpec, result: ScanResult) -> tuple[str, list[BrokenImage]]:
    """Returns a sentence about a manifest's files that do not exist, and the other broken images.

    There may be one for each row, where the manifest lies in another folder than it was made for.
    """
    missing = [image for image in result.broken if image.reason == MISSING]
    if spec.source != "manifest" or not missing:
        return "", result.broken
    paths = [image.path for image in missing]
    sentence = manifest.describe_missing(
        spec.location, spec.manifest_root, paths, len(result.examples)
    )
    return sentence, [image for image in result.broken if image.reason != MISSING]


def _relabel(examples: Examples, classes: tuple[str, ...]) -> Examples:
    """Labels as a model with these classes does; names of classes without images don't matter."""
    known = {as_printed(name): label for label, name in enumerate(classes)}
    labels = np.array([known.get(as_printed(name), -1) for name in examples.classes], np.int32)
    if np.any(unknown := labels[examples.labels] < 0):
        name = examples.classes[examples.labels[np.argmax(unknown)]]
        raise UserError(
            f"class {name!r} of the data is unknown to the model, which knows "
            f"{', '.join(classes)}; rename or remove that class"
        )
    return examples.replace(labels=labels[examples.labels], classes=classes)
