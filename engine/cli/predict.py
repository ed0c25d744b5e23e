"""Predicts the classes of images: files, folders and web addresses; by a run or ImageNet."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Sequence

from absl import flags

from engine.cli import command_line
from engine.cli import main as cli_main
from engine.cli.flag_types import (
    Choice,
    Number,
    define,
    define_options,
    define_path,
    define_switch,
)
from engine.cli.parsed_flags import ParsedFlags, as_flag_errors
from engine.commands.predict import PRECISIONS, PredictOptions, predict
from engine.commands.predict_to_file import predict_to_file
from engine.commands.prediction_progress import PredictionProgress
from engine.core.errors import UserError
from engine.core.options import Option
from engine.core.text import csv_cell, csv_path, json_text, printable, program
from engine.inference import predictions_format
from engine.inference.predictions import Prediction
from engine.inference.predictions_format import decision_text


def define_predict(values: flags.FlagValues) -> None:
    define_options(values, PredictOptions)
    text = "labels of each prediction; default: 5, or 1 with --out"
    define(values, "top_k", None, Number(int, Option(minimum=1)), text)
    define(values, "format", "table", Choice(PRINTERS), "of the printed predictions")
    text = (
        "write the predictions as they come to this file instead, .csv or .jsonl, a row an image; "
        "when interrupted, the same command resumes it"
    )
    define_path(values, "out", None, text)
    define_switch(values, "overwrite", False, "with --out: start over, and replace the file")
    text = (
        f"of the network's arithmetic: float32 predicts as {program('evaluate')} does, and is the "
        "default; auto, the default with --out, measures what is fastest where there are thousands "
        "of images"
    )
    define(values, "precision", None, Choice(PRECISIONS), text)


def main(argv: list[str]) -> None:
    groups = (define_predict,)
    parsed = command_line.parse("[flags] FILE|FOLDER|URL ...", groups, argv, about=__doc__)
    options = predict_options(parsed)
    if parsed.out is not None:
        write_predictions(parsed, options)
        return
    parsed.refuse(("overwrite",), "has no use without --out; omit it")
    result = predict(options, cli_main.log)
    PRINTERS[parsed.format](result.predictions, result.rule.overrides_argmax)
    unread = [(one.path, one.problem) for one in result.predictions if one.problem]
    require_all_read(unread, len(unread), len(result.predictions))


def predict_options(parsed: ParsedFlags) -> PredictOptions:
    """Raises:
    FlagError: a value does not fit, or no image is named.
    """
    to_file = parsed.out is not None
    return parsed.options(
        PredictOptions,
        images=tuple(parsed.arguments),
        top_k=parsed.top_k or (1 if to_file else 5),
        precision=parsed.precision or ("auto" if to_file else "float32"),
    )


def write_predictions(parsed: ParsedFlags, options: PredictOptions) -> None:
    """Predicts into a file, and reports how many images could be read.

    Raises:
      FlagError: a file of another kind, or flags that exclude each other.
      UserError: an image could not be read.
    """
    path = parsed.out
    with as_flag_errors():
        predictions_format.format_of(path.name)
    parsed.refuse(("format",), "has no use with --out: the file's ending says it; omit one of them")
    parsed.refuse(("plot",), "has no use with --out: it has no images; omit one of them")
    shutdown = cli_main.listen_for_shutdown(None, False)
    with PredictionProgress() as progress:
        counts = predict_to_file(options, path, parsed.overwrite, progress, shutdown)
    print(f"{progress.describe()}; written to {printable(str(path))}")
    require_all_read(counts.first_unreadable, counts.unreadable, counts.rows)


def require_all_read(unread: Sequence[tuple[str, str | None]], count: int, total: int) -> None:
    """Lists images that could not be read, the first ones with their reasons.

    Raises:
      UserError: there are any; the others are predicted nevertheless.
    """
    for path, problem in unread:
        cli_main.log(f"predict: {printable(path)}: {problem}")
    if count > len(unread):
        cli_main.log(f"predict: and {count - len(unread):,} more")
    if count:
        some = f"{count:,} of {total:,} images could not be read; the others are predicted"
        raise UserError("no image could be read" if count == total else some)


def print_table(predictions: Sequence[Prediction], decides: bool) -> None:
    """decides: the model has a rule that may decide for another than the likeliest label."""
    for prediction in predictions:
        if prediction.problem:
            continue
        print(printable(prediction.path))
        for label, probability in prediction.labels:
            print(f"  {probability:7.2%}  {printable(label)}")
        if decides:
            print(f"  -> {decision_text(prediction)}")


def print_json(predictions: Sequence[Prediction], decides: bool) -> None:
    rows = list(map(predictions_format.as_json, predictions))
    print(json_text(rows, indent=2))


def print_csv(predictions: Sequence[Prediction], decides: bool) -> None:
    """Each row of an image has its decision; a terminal gets no control characters."""
    shown = printable if sys.stdout.isatty() else str
    writer = csv.writer(sys.stdout, lineterminator=os.linesep)
    writer.writerow(["path", "rank", "label", "probability", *(["decision"] if decides else [])])
    for one in predictions:
        path = csv_path(shown(one.path))
        decided = [csv_cell(shown(decision_text(one)))] if decides else []
        for rank, (label, probability) in enumerate(one.labels, 1):
            writer.writerow([path, rank, csv_cell(shown(label)), probability, *decided])


PRINTERS = {"table": print_table, "json": print_json, "csv": print_csv}
