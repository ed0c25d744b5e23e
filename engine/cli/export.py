"""Writes a trained model as others read it, and compares that with the original."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from absl import flags

from engine.cli import flags as cli_flags
from engine.core.errors import UserError
from engine.core.files import write, write_json
from engine.core.recipe import DataSpec, Recipe
from engine.export import place, subject
from engine.export.formats import FORMATS
from engine.runs import load
from engine.runs.directory import RunDirectory
from engine.runtime import captured_output, tensorflow_setup
from engine.runtime.shutdown import Shutdown, ShutdownRequested

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LEAST = {subject.INT8: 0.98}  # agreement that is asked for; elsewhere:
USUAL_LEAST = 0.995
SAMPLES = 256  # training images that int8 is calibrated with, evenly over the classes


def define(values: flags.FlagValues) -> None:
    cli_flags.place(values, "run_dir", None, "the run whose best model is exported")
    cli_flags.choice(values, "format", None, FORMATS, "of the export")
    cli_flags.place(values, "out", None, "the folder to make")
    cli_flags.choice(
        values,
        "precision",
        subject.FLOAT32,
        subject.PRECISIONS,
        "of the weights, with --format=litert",
    )
    cli_flags.number(
        values,
        "min_agreement",
        None,
        "the share of validation images, 0 to 1, on which export and original have to give the "
        f"same answer; {USUAL_LEAST} if not given, {LEAST[subject.INT8]} for int8",
    )
    flags.DEFINE_bool("overwrite", False, "replace an earlier export", values)
    cli_flags.whole(values, "threads", None, "CPU threads; all cores if not given", least=1)
    cli_flags.cache_dir(values)


def main(argv: list) -> None:
    usage = "--run_dir=R --format=F --out=DIR [flags]"
    parsed = cli_flags.parse(usage, (define, cli_flags.define_data), argv, about=__doc__)
    check(parsed)
    run, out = RunDirectory(Path(parsed.run_dir)), Path(parsed.out)
    recipe = run.read_recipe()
    data = data_of(parsed, recipe)
    place.refuse(out, parsed.overwrite)
    try:
        with ending_clean() as asked:
            export(parsed, run, dataclasses.replace(recipe, data=data), out, asked)
    except ShutdownRequested as error:
        raise SystemExit(told(signal.Signals[str(error)])) from None


def check(parsed: cli_flags.Parsed) -> None:
    """Raises:
    FlagError: something is missing, or does not go together.
    """
    for name, what in (
        ("run_dir", "give the directory that bin/train wrote"),
        ("format", f"allowed: {', '.join(FORMATS)}"),
        ("out", "name the folder to make"),
    ):
        if not getattr(parsed, name):
            raise cli_flags.FlagError(f"--{name} is missing; {what}")
    if "precision" in parsed.given and len(FORMATS[parsed.format].precisions) == 1:
        raise cli_flags.FlagError(
            f"--precision={parsed.precision} goes with --format=litert; leave it away with "
            f"--format={parsed.format}, which is float32"
        )
    if parsed.min_agreement is not None and parsed.min_agreement > 1:
        raise cli_flags.FlagError(
            f"--min_agreement={parsed.min_agreement:g}; allowed: a share from 0 to 1, such as "
            f"{USUAL_LEAST} for {USUAL_LEAST:.1%}"
        )


def data_of(parsed: cli_flags.Parsed, recipe: Recipe) -> DataSpec:
    """The run's own images, or where the flags say that they lie now.

    What is not said is as the run had it, so that the same images validate.
    """
    named = cli_flags.data_spec(parsed)
    stray = sorted(set(parsed.given) & set(cli_flags.DATA))
    if named is None and stray:
        raise cli_flags.FlagError(f"--{stray[0]} goes with other data; name it, as with --data_dir")
    if named is None:
        return recipe.data
    kept = {name: getattr(recipe.data, name) for name in cli_flags.DATA if name not in parsed.given}
    return dataclasses.replace(named, **kept)


def export(
    parsed: cli_flags.Parsed, run: RunDirectory, recipe: Recipe, out: Path, asked: Shutdown
) -> None:
    threads = tensorflow_setup.start_tensorflow(parsed.threads)

    from engine.export import card, parity
    from pipelines.decode import decode
    from pipelines.sources import examples

    opened = load.load_run(run)
    print("reading the images", flush=True)
    part, samples = images(parsed, recipe, opened.classes, threads)
    contents = functools.partial(examples.read, part.examples)
    leaving = subject.ExportSource(
        opened,
        decode=lambda contents: decode.decode(contents, *recipe.image_size, recipe.resize),
        precision=parsed.precision,
        samples=samples,
        threads=threads,
    )
    kind = FORMATS[parsed.format]
    with contextlib.ExitStack() as around:
        folder = around.enter_context(place.beside(out, parsed.overwrite))
        path = folder / kind.path
        print(f"converting to {kind.title}, {parsed.precision}", flush=True)
        with ending_at_once(around):
            kind.write(leaving, path)
        count = len(part.examples)
        print(f"comparing it with the original on {count:,} validation images", flush=True)
        with captured_output.capture_output():
            answer = kind.load(leaving, path)
            seen = asked.checked(part.batches())
            found = parity.measure(leaving, kind, path, answer, seen, contents)
        print_table(parity.rows(found, kind))
        least = least_of(parsed)
        parity.check(found, least)
        counts = part.examples.class_counts()
        text = card.write(leaving, kind, found, run.read_result(), counts, recipe.data)
        write(folder / place.CARD, text.encode())
        write_json(folder / place.PARITY, parity.report(leaving, kind, least, found))
        asked.check()
    print(f"\nwritten to {out}")


def images(parsed: cli_flags.Parsed, recipe: Recipe, classes: tuple, threads: int) -> tuple:
    """Those to compare on, a `batches.Part`, and those to calibrate int8 with, uint8 [N, H, W, 3].

    Raises:
      UserError: there are none any more.
    """
    import numpy as np

    from pipelines.loading import batches, prepare

    kept = cli_flags.cache_options(parsed, memory=0).location()
    try:
        found = prepare.prepare_evaluation_data(
            recipe, classes, "validation", threads, complain, kept
        )
        part = batches.SplitLoader(found[0], recipe, threads, found[1])
        if parsed.precision != subject.INT8:
            return part, None
        most = min(max(SAMPLES, len(classes)), recipe.data.limit_examples or sys.maxsize)
        fewer = dataclasses.replace(
            recipe, data=dataclasses.replace(recipe.data, limit_examples=most)
        )
        few, _ = prepare.prepare_evaluation_data(fewer, classes, "train", threads, complain)
    except UserError as error:
        raise UserError(
            f"the run's images can't be had ({error}); where they lie elsewhere now, name the "
            "place as in training: --data_dir, --train_dir and --val_dir, --dataset or --manifest"
        ) from None
    read = batches.SplitLoader(few, recipe, threads).batches()
    samples = np.concatenate([np.asarray(batch.inputs) for batch in read])
    return part, samples[: len(few)]


def complain(line: str) -> None:
    print(line, file=sys.stderr)


def least_of(parsed: cli_flags.Parsed) -> float:
    if parsed.min_agreement is not None:
        return parsed.min_agreement
    return LEAST.get(parsed.precision, USUAL_LEAST)


def print_table(rows: Iterable) -> None:
    print()
    for name, value, more in rows:
        print(f"{name:24}{value:>10}  {more}".rstrip(), flush=True)


@contextlib.contextmanager
def ending_clean() -> Iterator[Shutdown]:
    """SIGINT and SIGTERM end the block from within, so that what it has begun is cleared away.

    Once, and no later one disturbs that.
    """
    asked = Shutdown()

    def end(number, _):
        if not asked.reason:
            asked.reason = signal.Signals(number).name
            asked.check()

    for number in SIGNALS:
        signal.signal(number, end)
    yield asked


@contextlib.contextmanager
def ending_at_once(around: contextlib.ExitStack) -> Iterator[None]:
    """Within the block a signal clears away what `around` holds, and the process is no more.

    What is raised in the midst of a converter passes through native code: that may swallow it, or
    crash. What the block prints is kept back.
    """
    with contextlib.ExitStack() as inner:
        inner.enter_context(captured_output.capture_output())

        def end(number, _):
            for other in SIGNALS:
                signal.signal(other, signal.SIG_IGN)
            for stack in (inner, around):
                with contextlib.suppress(ShutdownRequested):
                    stack.__exit__(ShutdownRequested, ShutdownRequested(), None)
            status = told(signal.Signals(number))
            sys.stderr.flush()
            os._exit(status)

        usual = {number: signal.signal(number, end) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in usual.items():
                signal.signal(number, handler)


def told(number: signal.Signals) -> int:
    """Says by what it was stopped; the exit status."""
    print(f"export: stopped by {number.name}; nothing is left behind", file=sys.stderr)
    return 128 + number
