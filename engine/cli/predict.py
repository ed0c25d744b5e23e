"""Names what images show: files, folders and web addresses; by a run or a pretrained network."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

from absl import flags

from engine.cli import flags as cli_flags
from engine.commands import plotting
from engine.commands import predict_to_file as commands_batch
from engine.commands import tta as tta_module
from engine.commands.predict_to_file import complain
from engine.core.errors import UserError
from engine.core.files import write_image
from engine.core.text import csv_cell, csv_path, printable
from engine.inference.predictions_format import decision
from engine.models.backbones import BACKBONES
from engine.runs.directory import RunDirectory
from engine.runtime import tensorflow_setup
from pipelines.predict import find_images

FORMATS = ("table", "json", "csv")
PRECISIONS = ("float32", "auto")


def define(values: flags.FlagValues) -> None:
    cli_flags.place(values, "run_dir", None, "the run whose best model answers")
    cli_flags.choice(
        values,
        "backbone",
        "efficientnet_lite0",
        BACKBONES,
        "without --run_dir: the network that names the 1,000 ImageNet classes",
    )
    cli_flags.whole(
        values, "top", None, "how many labels; 5, or 1 with --out, if not given", least=1
    )
    cli_flags.choice(values, "format", "table", FORMATS, "of the printed answer")
    plotting.define(values)
    tta_module.define(values)
    cli_flags.place(
        values,
        "out",
        None,
        "write the answers as they come to this file instead, .csv or .jsonl, a row an image; "
        "interrupted, the same command goes on",
    )
    flags.DEFINE_bool("overwrite", False, "with --out: begin anew, and replace the file", values)
    cli_flags.choice(
        values,
        "precision",
        None,
        PRECISIONS,
        "of the network's arithmetic: float32 gives the numbers of bin/evaluate, and is the "
        "default; auto, the default with --out, tries on your images, where they are "
        "thousands, what is fastest",
    )
    flags.DEFINE_bool(
        "allow_private_urls", False, "fetch addresses that are not on the public internet", values
    )
    cli_flags.whole(values, "batch_size", 32, "images at a time", least=1)
    cli_flags.whole(values, "threads", None, "CPU threads; all cores if not given", least=1)


def main(argv: list) -> None:
    parsed = cli_flags.parse("[flags] FILE|FOLDER|URL ...", (define,), argv, about=__doc__)
    if not parsed.words:
        raise cli_flags.FlagError("no image is named; give files, folders or http(s) addresses")
    plotting.check(parsed)
    tta_module.check(parsed)
    if parsed.out is not None:
        commands_batch.run(
            parsed, parsed.top or 1, parsed.precision or "auto", lambda: load(parsed)
        )
        return
    if parsed.overwrite:
        raise cli_flags.FlagError("--overwrite has no use without --out; leave it away")
    answer(parsed, parsed.top or 5, parsed.precision or "float32")


def load(parsed: cli_flags.Parsed) -> Any:
    from engine.inference import predictor

    if parsed.run_dir:
        model = predictor.from_run(RunDirectory(Path(parsed.run_dir)))
    else:
        model = predictor.from_imagenet(parsed.backbone)
    return tta_module.looking_again(parsed, model) if parsed.tta else model


def answer(parsed: cli_flags.Parsed, top: int, precision: str) -> None:
    """Prints what all the words mean, when all is known."""
    found = find_images.find(parsed.words)
    threads = tensorflow_setup.start_tensorflow(parsed.threads)
    model = load(parsed)

    from engine.inference import batch_predict
    from engine.inference import predict as prediction
    from pipelines.predict.image_stream import ImageStream

    size, private = model.image_size, parsed.allow_private_urls
    stream = ImageStream(
        found, size, model.resize, threads, private, tensorflow_setup.prefetch_device()
    )
    groups: Any = stream.groups(parsed.batch_size)
    if precision == "auto":
        model, groups = batch_predict.fastest(model, groups, len(found), complain)
    read = prediction.predict(model, groups, parsed.batch_size, top, bool(parsed.plot))
    answers = list(read)
    if parsed.plot:
        write_image(Path(parsed.plot), plotting.plot(parsed, model, answers), "plot")
    PRINTERS[parsed.format](answers, model.rule.overrides_argmax)
    unread = [answer for answer in answers if answer.problem]
    for one in unread:
        complain(f"predict: {printable(one.path)}: {one.problem}")
    if len(unread) == len(answers):
        raise UserError("no image could be read")


def print_table(answers: list, decides: bool) -> None:
    """decides: the model has a rule by which the answer may be another than the likeliest label."""
    for answer in answers:
        if answer.problem:
            continue
        print(printable(answer.path))
        for label, probability in answer.labels:
            print(f"  {probability:7.2%}  {label}")
        if decides:
            print(f"  -> {decision(answer)}")


def print_json(answers: list, decides: bool) -> None:
    rows = [
        {
            "path": answer.path,
            **({"decision": answer.decision} if decides else {}),  # null where it is uncertain
            "predictions": [{"label": label, "probability": p} for label, p in answer.labels],
            "problem": answer.problem,
        }
        for answer in answers
    ]
    print(json.dumps(rows, indent=2, ensure_ascii=False))


def print_csv(answers: list, decides: bool) -> None:
    """The decision stands in each row of its image."""
    writer = csv.writer(sys.stdout, lineterminator=os.linesep)
    writer.writerow(["path", "rank", "label", "probability", *(["decision"] if decides else [])])
    for answer in answers:
        path = csv_path(answer.path)
        decided = [csv_cell(decision(answer))] if decides else []
        for rank, (label, probability) in enumerate(answer.labels, 1):
            writer.writerow([path, rank, csv_cell(label), probability, *decided])


PRINTERS = {"table": print_table, "json": print_json, "csv": print_csv}
