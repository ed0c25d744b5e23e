"""Exports a run's best model to another format and measures the export against the original."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands.cache_options import CacheOptions
from engine.core.errors import UserError, choose, require
from engine.core.files import write, write_json
from engine.core.recipe import DataSpec, Recipe
from engine.export import place, subject
from engine.export.formats import FORMATS
from engine.loggers.base import Logger, LoggerGroup
from engine.runs.directory import RunDirectory
from engine.runtime import captured_output, tensorflow_setup
from engine.runtime.shutdown import Shutdown, ShutdownRequested

if TYPE_CHECKING:
    from engine.export.parity import Parity
    from engine.runs.load_run import LoadedRun

MIN_AGREEMENT = {subject.INT8: 0.98}  # of predictions by precision; elsewhere:
USUAL_MIN_AGREEMENT = 0.995
SAMPLES = 256  # training images that int8 is calibrated with, evenly over the classes


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What to export and where to.

    format: a key of `FORMATS`.
    out: the folder to make.
    precision: of the weights, one of those of the format.
    min_agreement: share of validation images, 0 to 1, with equal predictions; None for the usual.
    data: where the run's images are now; None for where the run found them.
    overwrite: replace an earlier export in `out`.
    threads: CPU threads; None for all cores.
    """

    run_dir: Path
    format: str
    out: Path
    precision: str = subject.FLOAT32
    min_agreement: float | None = None
    data: DataSpec | None = None
    overwrite: bool = False
    threads: int | None = None
    cache: CacheOptions = dataclasses.field(default_factory=lambda: CacheOptions(memory=0))

    def __post_init__(self) -> None:
        allowed = choose(self.format, FORMATS, "--format:").precisions
        require(
            self.precision in allowed,
            f"--precision={self.precision} goes with --format=litert; omit it with "
            f"--format={self.format}, which is {allowed[0]}",
        )
        require(
            self.min_agreement is None or 0 <= self.min_agreement <= 1,
            f"--min_agreement={self.min_agreement}; allowed: a share from 0 to 1, such as "
            f"{USUAL_MIN_AGREEMENT} for {USUAL_MIN_AGREEMENT:.1%}",
        )

    @property
    def required_agreement(self) -> float:
        if self.min_agreement is not None:
            return self.min_agreement
        return MIN_AGREEMENT.get(self.precision, USUAL_MIN_AGREEMENT)


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """An export and how it compares with the original.

    path: of the model, a file or a folder in `folder`, which holds its model card as well.
    """

    folder: Path
    path: Path
    parity: Parity


def export(
    options: ExportOptions,
    logger: Logger | None = None,
    shutdown: Shutdown | None = None,
    guard_conversion: Callable[[Callable[[], None]], AbstractContextManager[Any]] = (
        contextlib.nullcontext
    ),
    warn: Callable[[str], None] | None = None,
) -> ExportResult:
    """Exports a run's best model, and writes nothing unless it predicts as the original does.

    Args:
      logger: receives what there is to say; nothing is printed without one.
      shutdown: what may end this from outside.
      guard_conversion: makes the context in which native converters run, which no exception
        passes through; receives the function that clears away what was begun.
      warn: receives a line about images that can't be read; the logger by default.

    Raises:
      UserError: the run, its images or the place don't serve, or the export differs too much.
      ShutdownRequested: nothing is left behind.
    """
    logger, shutdown = logger or LoggerGroup(()), shutdown or Shutdown()
    run, kind = RunDirectory(Path(options.run_dir)), FORMATS[options.format]
    out = Path(options.out)
    recipe = run.read_recipe()
    recipe = dataclasses.replace(recipe, data=options.data or recipe.data)
    place.refuse(out, options.overwrite)
    threads = tensorflow_setup.start_tensorflow(options.threads, log=logger.note)

    from engine.export import card, parity
    from engine.runs.load_run import load_run

    model = load_run(run)
    logger.note("reading the images")
    images, samples = _images(options, recipe, model.classes, threads, warn or logger.note)
    source = _export_source(options, recipe, model, threads, samples)
    with ExitStack() as cleanup:
        folder = cleanup.enter_context(place.beside(out, options.overwrite))
        path = folder / kind.path
        logger.note(f"converting to {kind.title}, {options.precision}")
        with ExitStack() as output, guard_conversion(lambda: _abandon(output, cleanup)):
            output.enter_context(captured_output.capture_output())
            kind.write(source, path)
        examples = images.examples
        logger.note(f"comparing it with the original on {len(examples):,} validation images")
        with captured_output.capture_output():
            predict = kind.load(source, path)
            batch_stream = shutdown.check_each(images.batches())
            measured = parity.measure(source, kind, path, predict, batch_stream, _reader(examples))
        _log_table(parity.rows(measured, kind), logger)
        parity.check(measured, options.required_agreement)
        counts = examples.class_counts()
        text = card.write(source, kind, measured, run.read_result(), counts, recipe.data)
        write(folder / place.CARD, text.encode())
        report = parity.report(source, kind, options.required_agreement, measured)
        write_json(folder / place.PARITY, report)
        shutdown.check()
    return ExportResult(out, out / kind.path, measured)


def _abandon(*stacks: ExitStack) -> None:
    """Leaves contexts as an interruption would."""
    for stack in stacks:
        with contextlib.suppress(ShutdownRequested):
            stack.__exit__(ShutdownRequested, ShutdownRequested(), None)


def _export_source(
    options: ExportOptions, recipe: Recipe, model: LoadedRun, threads: int, samples: Any
) -> subject.ExportSource:
    from pipelines.decode import decode

    return subject.ExportSource(
        model,
        decode=lambda contents: decode.decode(contents, *recipe.image_size, recipe.resize),
        precision=options.precision,
        samples=samples,
        threads=threads,
    )


def _reader(examples: Any) -> Callable[[int], bytes]:
    from pipelines.sources.examples import read

    return functools.partial(read, examples)


def _images(
    options: ExportOptions,
    recipe: Recipe,
    classes: tuple[str, ...],
    threads: int,
    warn: Callable[[str], None],
) -> tuple[Any, Any]:
    """The images to compare on and those to calibrate int8 with.

    Returns:
      a `batches.SplitLoader`, and uint8 [N, H, W, 3] or None.

    Raises:
      UserError: they are not there any more.
    """
    import numpy as np

    from pipelines.loading import batches, prepare

    def prepare_split(recipe: Recipe, split: str, *cache: Any) -> tuple[Any, Any]:
        return prepare.prepare_evaluation_data(recipe, classes, split, threads, warn, *cache)

    try:
        examples, pixels = prepare_split(recipe, "validation", options.cache.location())
        images = batches.SplitLoader(examples, recipe, threads, pixels)
        if options.precision != subject.INT8:
            return images, None
        limit = min(max(SAMPLES, len(classes)), recipe.data.limit_examples or sys.maxsize)
        data = dataclasses.replace(recipe.data, limit_examples=limit)
        few, _ = prepare_split(dataclasses.replace(recipe, data=data), "train")
    except UserError as error:
        raise UserError(
            f"the run's images can't be read ({error}); where they have moved, name the place as "
            "in training: --data_dir, --train_dir and --val_dir, --dataset or --manifest"
        ) from None
    stream = batches.SplitLoader(few, recipe, threads).batches()
    samples = np.concatenate([np.asarray(batch.inputs) for batch in stream])
    return images, samples[: len(few)]


def _log_table(rows: list[tuple[str, str, str]], logger: Logger) -> None:
    logger.note("")
    for name, value, more in rows:
        logger.note(f"{name:24}{value:>10}  {more}".rstrip())
