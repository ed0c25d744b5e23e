"""The report of a run: at the end of its training, and of an evaluation."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import time
from pathlib import Path

from engine.commands.evaluate_options import EvaluateOptions, EvaluationResult
from engine.commands.shared_options import Log, ignore
from engine.core import digests
from engine.core.dataset import DataLoader
from engine.core.errors import UserError
from engine.core.files import write_json
from engine.core.text import command_line, duration
from engine.evaluation.model_metrics import measure_model
from engine.report import write
from engine.report.collect import MeasuredModel, collect_report
from engine.report.report_data import ReportContext
from engine.runs import best_model
from engine.runs.directory import RunDirectory
from engine.runtime.shutdown import ShutdownRequested
from engine.training.job import TrainJob
from engine.training.results import FinalEvaluation
from pipelines.loading import batches, prepare

OWN_DATA = "the run's own"
SHARE, MIN_SECONDS = 0.1, 5.0  # of a run's time that its report takes at most, where that is more


def write_training_report(
    job: TrainJob, final: FinalEvaluation, command: str, price_per_hour: float | None = None
) -> str | None:
    """Writes the report of a run that has just finished, and logs where.

    Whatever goes wrong here, the run is finished. A first signal ends the report, a second one the
    process, as ever.

    Returns:
      in one line why there is no report; None where it was written.
    """
    # The test split where there is one, on which nothing was tuned.
    split = list(final.predictions)[-1]
    context = ReportContext(
        split=split,
        data=OWN_DATA,
        own=True,
        when=_now(),
        command=command,
        price_per_hour=price_per_hour,
    )
    started = time.perf_counter()
    seconds = max(MIN_SECONDS, SHARE * final.result["seconds_total"])
    job.logger.note(f"writing the report, in {duration(seconds)} at most")
    try:
        model = _trained_model(job, final, split)
        data = collect_report(model, context, job.shutdown.check, seconds)
        job.shutdown.check()
        if job.lock and not job.lock.owns_directory():
            raise UserError(f"{job.run.path} holds another run by now")
        seconds = time.perf_counter() - started
        page = write.write(job.run.report, dataclasses.replace(data, seconds=seconds))
        final.result["spent"]["report_seconds"] = seconds = time.perf_counter() - started
        write_json(job.run.result, final.result, digests.write)
        job.logger.note(f"report: {page} ({duration(seconds)})")
        return None
    except (Exception, ShutdownRequested) as error:
        plain = isinstance(error, UserError | OSError | ShutdownRequested)
        reason = " ".join((str(error) if plain else repr(error)).split())
        arguments = (f"--run_dir={job.run.path}", f"--report={job.run.report}")
        again = command_line("evaluate", *arguments)
        return f"no report ({reason}); {again} writes one"


def _trained_model(job: TrainJob, final: FinalEvaluation, split: str) -> MeasuredModel:
    predictions = final.predictions[split]
    rule = best_model.decision_rule_of(job.run, best_model.load_best_model(job.run)[1])
    return MeasuredModel(
        run=job.run,
        recipe=job.recipe,
        classifier=job.classifier,
        measured=measure_model(predictions, rule, fitted_on_these=split == "validation"),
        predictions=predictions,
        batches=functools.partial(job.loader.split_batches, split),
        training=job.loader,
    )


def write_evaluation_report(
    result: EvaluationResult, options: EvaluateOptions, log: Log = ignore
) -> Path:
    """Writes the report of an evaluation to `options.report`, and returns the path of its page.

    Raises:
      UserError: it can't be written, or an image can't be read any more.
    """
    run, own, folder = result.run, options.data is None, options.report
    assert folder
    started = time.perf_counter()
    model = MeasuredModel(
        run=RunDirectory(Path(options.run_dir)),
        recipe=run.recipe,
        classifier=run.classifier,
        measured=result,
        predictions=result.predictions,
        batches=result.source.batches,
        training=_training_data(result, options, log) if own else None,
    )
    context = ReportContext(
        split=result.split,
        data=options.data.location if options.data else OWN_DATA,
        own=own,
        when=_now(),
        command=options.command,
        price_per_hour=options.price_per_hour,
        views=_describe_tta(options.tta),
        trained_on=result.trained_on,
    )
    data = collect_report(model, context)
    seconds = time.perf_counter() - started
    try:
        return write.write(Path(folder), dataclasses.replace(data, seconds=seconds))
    except OSError as error:
        raise UserError(
            f"--report={folder}: can't be written ({error.strerror}); name another folder"
        ) from None


def _training_data(result: EvaluationResult, options: EvaluateOptions, log: Log) -> DataLoader:
    """The training split of the run's own data."""
    source, run = result.source, result.run
    examples, cached, recipe = source.examples, source.pixels, source.recipe
    if result.split != "train":
        recipe = run.recipe
        cache = dataclasses.replace(options.cache, memory=0).location()
        examples, cached = prepare.prepare_evaluation_data(
            recipe, run.classes, "train", source.threads, log, cache
        )
    return batches.ImageDataLoader(examples, recipe, source.threads, cached)


def _describe_tta(tta: str | int | None) -> str:
    """What a prediction is the mean over; nothing without test-time augmentation."""
    if tta is None:
        return ""
    if tta == "flip":
        return "the image and its mirror image"
    return f"{tta} views, the image and draws of the run’s own augmentation"


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
