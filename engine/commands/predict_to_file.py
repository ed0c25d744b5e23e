"""bin/predict --out: any number of images answered into a file, which goes on where it ended."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from engine.cli import flags, main
from engine.core.errors import UserError
from engine.core.text import counted, duration, printable
from engine.inference import predictions_file, predictions_format
from engine.inference.predictions_file import PredictionCounts, PredictionsFile, PredictionsRequest
from engine.loggers.console import PLAIN_SECONDS
from engine.runs.directory import RunDirectory
from engine.runtime import tensorflow_setup
from engine.runtime.shutdown import Shutdown
from pipelines.predict import fetch, find_images

if TYPE_CHECKING:
    from engine.inference.predictor import Predictor
    from pipelines.predict.image_stream import ImageStream

AUTO = "auto"  # the precision that is fastest


def order_of(parsed: flags.Parsed, top: int, precision: str) -> PredictionsRequest:
    """What the flags ask for, before it is known which images are meant.

    Raises:
      FlagError: a file of another kind, or flags that don't go together.
    """
    with flags.as_flag_errors():
        predictions_format.of_path(Path(parsed.out).name)
    for name, why in {"format": "the file's ending says it", "plot": "it keeps no image"}.items():
        if name in parsed.given:
            raise flags.FlagError(f"--{name} has no use with --out: {why}; leave one away")
    paths = {word: os.path.abspath(word) for word in parsed.words if not fetch.is_url(word)}
    settings = {"top": top, "precision": precision, "batch_size": parsed.batch_size}
    settings["tta"] = parsed.tta
    return PredictionsRequest(
        model=_model(parsed),
        words=tuple(paths.get(word, word) for word in parsed.words),
        options={**settings, "allow_private_urls": parsed.allow_private_urls},
        replaces=parsed.overwrite,
        folder="" if all(map(os.path.isabs, paths)) else os.getcwd(),
    )


def _model(parsed: flags.Parsed) -> dict[str, str]:
    """What tells the model from others: the digests of its files, or a network's name."""
    if not parsed.run_dir:
        return {"backbone": parsed.backbone}
    run = RunDirectory(Path(parsed.run_dir))
    run.read_recipe()
    files = [path for path in (run.recipe, run.best) if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(parsed: flags.Parsed, top: int, precision: str, load: Callable[[], Predictor]) -> None:
    """Answers all that the words mean.

    load: gives the model, and imports TensorFlow.

    Raises:
      UserError: the file can't be written or belongs to something else; no image could be read.
      Stopped: it was asked to end; what was answered so far is kept.
    """
    path, wanted = Path(parsed.out), order_of(parsed, top, precision)
    stop = main.stop(None, False)
    begun = predictions_file.begun(path, wanted, parsed.overwrite)
    order = begun or dataclasses.replace(wanted, places=tuple(find_images.find(parsed.words)))
    stretch = find_images.stretch(parsed.batch_size)
    answers = PredictionsFile(path, order, parsed.batch_size, stretch, going_on=bool(begun))
    with stop.unmasked(), answers as file:
        threads = tensorflow_setup.start_tensorflow(parsed.threads)
        model = load()

        from pipelines.predict.image_stream import ImageStream

        size, resize, private = model.image_size, model.resize, parsed.allow_private_urls
        stream = ImageStream(
            order.places, size, resize, threads, private, tensorflow_setup.prefetch_device()
        )
        with Meter(len(order.places), file.tally) as meter:
            _answer(model, stream, file, meter, stop)
            stop.disarm()
    print(f"{meter.in_words()}; written to {printable(str(path))}")
    _name_unread(file.tally)


def _answer(
    model: Predictor, stream: ImageStream, file: PredictionsFile, meter: Meter, stop: Shutdown
) -> None:
    """What the file lacks, to its end."""
    from engine.frozen.precision import ComputeMode
    from engine.inference import batch_predict, predictor
    from engine.inference import predict as prediction

    # A signal that raised in the midst of TensorFlow's own errors would come out as one of them.
    with stop.deferred():
        groups: Any = stop.check_each(stream.groups(file.batch_size, file.tally.rows))
        if file.order.program:
            meter.note(f"going on after {file.tally.rows:,} of {len(stream.places):,} images")
            model = predictor.in_program(model, ComputeMode(**file.order.program))
        else:
            if file.order.options["precision"] == AUTO:
                model, groups = batch_predict.fastest(model, groups, len(stream.places), meter.note)
            file.begin(dataclasses.asdict(model.program))
        meter.note(f"computing in {model.program}")
        for group in groups:
            file.add(prediction.answers(model, group, file.batch_size, file.top))
            meter.show()
        file.finish()


def complain(line: str) -> None:
    print(line, file=sys.stderr)


def _name_unread(tally: PredictionCounts) -> None:
    """Says which images have no answer.

    Raises:
      UserError: none has.
    """
    if tally.unread:
        shown = len(tally.first)
        first = f"; the first {shown}:" if tally.unread > shown else ":"
        complain(f"predict: {tally.unread:,} of {tally.rows:,} could not be read{first}")
    for row in tally.first:
        complain(f"  {printable(row.path)}: {row.problem}")
    if tally.unread == tally.rows:
        raise UserError("no image could be read")


class Meter:
    """Says how far it has come: a bar where somebody looks, a line now and then elsewhere."""

    def __init__(self, total: int, tally: PredictionCounts) -> None:
        self.total, self.tally = total, tally
        self.console = Console(file=sys.stderr, highlight=False)
        self.bar = Progress(
            BarColumn(),
            TextColumn("{task.description}", markup=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=total, completed=tally.rows)
        self.told = time.monotonic()
        self.first: tuple[int, float] | None = None  # rows and time, after the first group

    def __enter__(self) -> Meter:
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def note(self, line: str) -> None:
        """A sentence by itself."""
        self.console.print(Text(line), soft_wrap=True)

    def show(self) -> None:
        """To be called after each group. The first one, in which all is compiled, is no measure."""
        self.first = self.first or (self.tally.rows, time.monotonic())
        if self.console.is_terminal:
            words = self.in_words()
            self.bar.update(self.task, completed=self.tally.rows, description=words)
        elif time.monotonic() - self.told > PLAIN_SECONDS:
            self.told = time.monotonic()
            self.note(self.in_words())

    def in_words(self) -> str:
        """`1,024 of 100,000 images, 410 a second, 4 min 1 s left, 2 unreadable`."""
        rows, unread = self.tally.rows, self.tally.unread
        before, started = self.first or (rows, 0.0)
        speed = (rows - before) / max(time.monotonic() - started, 1e-3)
        done = "" if rows == self.total else f"{rows:,} of "
        words = [done + counted(self.total, "image", "images")]
        if speed:
            words.append(f"{speed:,.0f} a second")
            if rows < self.total:
                words.append(f"{duration((self.total - rows) / speed)} left")
        return ", ".join([*words, *([f"{unread:,} unreadable"] if unread else [])])
