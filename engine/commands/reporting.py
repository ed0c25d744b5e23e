"""The report of a run: at its end, and where bin/evaluate is asked for one."""

from __future__ import annotations

import datetime
import functools
import shlex
import sys
from pathlib import Path

from engine.cli import flags
from engine.commands import measure
from engine.commands import tta as tta_module
from engine.core.dataset import DataLoader
from engine.core.errors import UserError
from engine.core.recipe import DataSpec
from engine.report import write
from engine.report.collect import MeasuredModel, ReportContext, collect_report
from engine.runs import best_model
from engine.runs.directory import RunDirectory
from engine.runs.load import LoadedRun
from engine.runtime.shutdown import ShutdownRequested
from engine.training.final_evaluation import FinalEvaluation
from engine.training.state import TrainJob
from pipelines.loading import batches, prepare


def after_training(
    job: TrainJob, found: FinalEvaluation, command: str, price_per_hour: float | None = None
) -> None:
    """Writes the report of a run that has just ended, and says where, or in one line why not.

    Whatever goes wrong here, the run is finished. Whoever asks it to end meanwhile does without the
    report, and who asks twice is heard at once, as ever.
    """
    try:
        facts = collect_report(
            _trained(job, found), _told(found, command, price_per_hour), job.shutdown.check
        )
        job.shutdown.check()
        if job.lock and not job.lock.owns_directory():
            raise UserError(f"{job.run.path} is another run's by now")
        job.logger.note(f"report: {write.write(job.run.report, facts)}")
    except (Exception, ShutdownRequested) as error:
        reason = (
            str(error)
            if isinstance(error, UserError | OSError | ShutdownRequested)
            else repr(error)
        )
        again = shlex.join(
            ["bin/evaluate", f"--run_dir={job.run.path}", f"--report={job.run.report}"]
        )
        job.logger.note(f"no report ({' '.join(reason.split())}); {again} makes one")


def _trained(job: TrainJob, found: FinalEvaluation) -> MeasuredModel:
    """The test part where there is one, which nothing was chosen on."""
    part = list(found.predictions)[-1]
    rule = best_model.decision_rule_of(job.run, best_model.load_best_model(job.run)[1])
    return MeasuredModel(
        run=job.run,
        recipe=job.recipe,
        classifier=job.classifier,
        rule=rule,
        answers=found.predictions[part],
        once=functools.partial(job.loader.split_batches, part),
        fitted_on_these=part == "validation",
        training=job.loader,
    )


def _told(found: FinalEvaluation, command: str, price_per_hour: float | None) -> ReportContext:
    return ReportContext(
        part=list(found.predictions)[-1],
        data="the run's own",
        own=True,
        when=_now(),
        command=command,
        price_per_hour=price_per_hour,
    )


def after_evaluating(
    parsed: flags.Parsed, run: RunDirectory, found: measure.EvaluatedModel, other: DataSpec | None
) -> Path:
    """Writes the report of what was measured, and gives its place.

    other: the data where they are not the run's own.

    Raises:
      UserError: it can't be written, or an image can't be read any more.
    """
    own, part = other is None, found.part
    opened, source = found.opened, found.source
    measured = MeasuredModel(
        run=run,
        recipe=opened.recipe,
        classifier=opened.classifier,
        rule=opened.rule,
        answers=found.answers,
        once=source.batches,
        fitted_on_these=own and part == "validation",
        training=_training(parsed, opened, source, part) if own else None,
    )
    told = ReportContext(
        part=part,
        data=other.location if other else "the run's own",
        own=own,
        when=_now(),
        command=_command(),
        price_per_hour=parsed.price_per_hour,
        views=tta_module.in_words(parsed.tta),
        trained_on=found.trained_on,
    )
    facts = collect_report(measured, told)
    try:
        return write.write(Path(parsed.report), facts)
    except OSError as error:
        raise UserError(
            f"--report={parsed.report}: can't be written ({error.strerror}); name another folder"
        ) from None


def _training(
    parsed: flags.Parsed, opened: LoadedRun, source: batches.SplitLoader, part: str
) -> DataLoader:
    """The training part of the run's own data."""
    if part == "train":
        return batches.ImageDataLoader(
            source.examples, source.recipe, source.threads, source.pixels
        )
    place = flags.cache_options(parsed, memory=0).location()
    examples, kept = prepare.prepare_evaluation_data(
        opened.recipe, opened.classes, "train", source.threads, measure.complain, place
    )
    return batches.ImageDataLoader(examples, opened.recipe, source.threads, kept)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _command() -> str:
    return shlex.join([f"bin/{Path(sys.argv[0]).name}", *sys.argv[1:]])
