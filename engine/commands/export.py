"""Exports a run's best model to another format and measures the export against the original."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands.shared_options import CacheOptions, ProcessOptions
from engine.core.errors import UserError, require
from engine.core.files import write, write_json
from engine.core.options import REQUIRED, option
from engine.core.recipe import DataSpec, Recipe
from engine.export import export_source, output_folder
from engine.export.formats import FORMATS
from engine.loggers.base import Logger, LoggerGroup
from engine.runs.directory import RunDirectory
from engine.runtime import captured_output, tensorflow_setup
from engine.runtime.shutdown import Shutdown

if TYPE_CHECKING:
    from engine.export.parity import Parity
    from pipelines.loading.batches import SplitLoader

MIN_AGREEMENT = {export_source.INT8: 0.98}  # of predictions, by precision; otherwise:
DEFAULT_MIN_AGREEMENT = 0.995
CALIBRATION_IMAGES = 256  # training images that calibrate int8, balanced over the classes


@dataclasses.dataclass(frozen=True)
class ExportOptions(ProcessOptions):
    """What to export and where to.

    precision: of the weights, one of the format's.
    data: where the run's images are now; None for the recipe's dataset.
    """

    run_dir: Path = option(REQUIRED, "run whose best model is exported")
    format: str = option(REQUIRED, "of the export", choices=FORMATS)
    out: Path = option(REQUIRED, "folder to make")
    precision: str = option(
        export_source.FLOAT32,
        "of the weights, with --format=litert",
        choices=export_source.PRECISIONS,
    )
    min_agreement: float | None = option(
        None,
        "share of validation images on which export and original must predict the same; "
        f"default: {DEFAULT_MIN_AGREEMENT}, {MIN_AGREEMENT[export_source.INT8]} for int8",
        minimum=0,
        maximum=1,
    )
    data: DataSpec | None = None
    overwrite: bool = option(False, "replace an earlier export")
    cache: CacheOptions = dataclasses.field(default_factory=lambda: CacheOptions(memory=0))

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = FORMATS[self.format].precisions
        require(
            self.precision in allowed,
            f"--precision={self.precision} requires --format=litert; omit it with "
            f"--format={self.format}, which is {allowed[0]}",
        )

    @property
    def required_agreement(self) -> float:
        if self.min_agreement is not None:
            return self.min_agreement
        return MIN_AGREEMENT.get(self.precision, DEFAULT_MIN_AGREEMENT)


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """An export and its comparison with the original model.

    path: of the model, a file or a folder in `folder`, which also holds the model card.
    """

    folder: Path
    path: Path
    parity: Parity


def export(
    options: ExportOptions,
    logger: Logger | None = None,
    shutdown: Shutdown | None = None,
    warn: Callable[[str], None] | None = None,
) -> ExportResult:
    """Exports a run's best model; writes nothing unless it predicts as the original does.

    Args:
      logger: receives progress messages; nothing is printed without one.
      shutdown: a request to stop, such as a signal; a converter ends first.
      warn: receives a line about images that can't be read; the logger by default.

    Raises:
      UserError: the run, its images or the output folder are unusable, or the export differs.
      ShutdownRequested: after everything unfinished was removed.
    """
    logger, shutdown = logger or LoggerGroup(()), shutdown or Shutdown()
    run, out = RunDirectory(Path(options.run_dir)), Path(options.out)
    recipe = run.read_recipe()
    recipe = dataclasses.replace(recipe, data=options.data or recipe.data)
    output_folder.require_free(out, options.overwrite)
    with shutdown.unmasked():
        threads = tensorflow_setup.start_tensorflow(options.threads, log=logger.note)

        from engine.runs.load_run import load_run
        from pipelines.decode import decode

        model = load_run(run)
        logger.note("reading images")
        images, calibration_images = _load_images(
            options, recipe, model.classes, threads, warn or logger.note
        )
        source = export_source.ExportSource(
            model,
            decode=lambda contents: decode.decode(
                contents, *recipe.image_size, recipe.resize, alone=False
            ),
            precision=options.precision,
            calibration_images=calibration_images,
            threads=threads,
        )
        with output_folder.create(out, options.overwrite) as folder:
            parity = _write(options, source, images, folder, logger, shutdown)
    return ExportResult(out, out / FORMATS[options.format].path, parity)


def _write(
    options: ExportOptions,
    source: export_source.ExportSource,
    images: SplitLoader,
    folder: Path,
    logger: Logger,
    shutdown: Shutdown,
) -> Parity:
    """Writes the export, its model card and its comparison with the original into the folder.

    Raises:
      UserError: the export differs.
    """
    from engine.export import card, parity
    from pipelines.sources.examples import read

    export_format, examples = FORMATS[options.format], images.examples
    path = folder / export_format.path
    logger.note(f"converting to {export_format.title}, {options.precision}")
    # Native code may swallow what a signal raises in its midst, or crash.
    with shutdown.deferred(), captured_output.capture_output():
        export_format.write(source, path)
    shutdown.check()
    logger.note(f"comparing the export with the original on {len(examples):,} validation images")
    with captured_output.capture_output():
        predict = export_format.load(source, path)
        batches, read_image = (
            shutdown.check_each(images.batches()),
            functools.partial(read, examples),
        )
        measured = parity.measure(source, export_format, path, predict, batches, read_image)
    logger.note("")
    for name, value, note in parity.table_rows(measured, export_format):
        logger.note(f"{name:24}{value:>10}  {note}".rstrip())
    parity.require_agreement(measured, options.required_agreement)
    result = RunDirectory(Path(options.run_dir)).read_result()
    data, counts = images.recipe.data, examples.class_counts()
    text = card.render(source, export_format, measured, result, counts, data)
    write(folder / output_folder.CARD, text.encode())
    report = parity.report(source, export_format, options.required_agreement, measured)
    write_json(folder / output_folder.PARITY, report)
    shutdown.check()
    return measured


def _load_images(
    options: ExportOptions,
    recipe: Recipe,
    classes: tuple[str, ...],
    threads: int,
    warn: Callable[[str], None],
) -> tuple[Any, Any]:
    """Loads the images of the comparison and of the calibration of int8.

    Returns:
      a `batches.SplitLoader`, and uint8 [N, H, W, 3] or None.

    Raises:
      UserError: the images can't be read any more.
    """
    import numpy as np

    from pipelines.loading import batches, prepare

    def prepare_split(recipe: Recipe, split: str, *cache: Any) -> tuple[Any, Any]:
        return prepare.prepare_evaluation_data(recipe, classes, split, threads, warn, *cache)

    try:
        examples, pixels = prepare_split(recipe, "validation", options.cache.location())
        images = batches.SplitLoader(examples, recipe, threads, pixels)
        if options.precision != export_source.INT8:
            return images, None
        limit = min(
            max(CALIBRATION_IMAGES, len(classes)), recipe.data.limit_examples or sys.maxsize
        )
        data = dataclasses.replace(recipe.data, limit_examples=limit)
        sample, _ = prepare_split(dataclasses.replace(recipe, data=data), "train")
    except UserError as error:
        raise UserError(
            f"the run's images can't be read ({error}); if they have moved, name the place "
            "as in training: --data_dir, --train_dir and --val_dir, --dataset or --manifest"
        ) from None
    stream = batches.SplitLoader(sample, recipe, threads).batches()
    calibration_images = np.concatenate([np.asarray(batch.inputs) for batch in stream])
    return images, calibration_images[: len(sample)]
