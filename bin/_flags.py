"""The flags of all programs, and the only reader of them.

Flags are defined, parsed and turned into specs without TensorFlow, so that `--help` and a mistyped
flag answer at once. absl adds a repeated flag on the command line to those of the flag file; here
those on the command line take the place of the file's, and of several data sources the last holds.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from engine import recipes, specs
from engine.backbones import BACKBONES
from engine.errors import nearest
from engine.optimizers import OPTIMIZERS
from engine.schedules import SCHEDULES
from engine.specs import DataSpec, Recipe, UserError
from pipelines import augment

BLOG_AUGMENTATION = "rotate(30)|shift(0.2)|shear(0.2)|zoom(0.2)|flip"
SOURCE_FLAGS = ("data_dir", "train_dir", "dataset", "manifest")
LISTS = ("phase",)  # flags that may stand several times


class FlagError(UserError):
    """A flag that is not as it should be: the program ends with 2."""


class Choice(flags.ArgumentParser):
    """Takes one of the allowed words, and names the nearest where it gets another."""

    syntactic_help = ""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed = list(allowed)

    def parse(self, argument: str) -> str:
        if argument in self.allowed:
            return argument
        hint = nearest(argument, self.allowed)
        raise ValueError(f"{argument!r} does not exist{hint}; allowed: {', '.join(self.allowed)}")


class Size(flags.ArgumentParser):
    """`224` or `HEIGHTxWIDTH`, in pixels."""

    syntactic_help = ""

    def parse(self, argument: str) -> tuple[int, int]:
        sides = str(argument).lower().split("x")
        if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
            raise ValueError(f"{argument!r}; allowed: H or HxW in pixels, such as 224 or 192x256")
        return int(sides[0]), int(sides[-1])


class Parsed:
    """A program's flags as attributes, and which of them the user gave, in order."""

    def __init__(self, values: flags.FlagValues, given: list[str], words: list[str]) -> None:
        self._values, self.given, self.words = values, given, words

    def __getattr__(self, name: str) -> Any:
        return self._values[name].value


def choice(values: flags.FlagValues, name: str, default: str, allowed: Iterable, help: str) -> None:
    parser = Choice(allowed)
    text = f"{help}; allowed: {', '.join(parser.allowed)}"
    flags.DEFINE(parser, name, default, text, flag_values=values)


def define_data(values: flags.FlagValues) -> None:
    text, number = flags.DEFINE_string, flags.DEFINE_integer
    text("data_dir", None, "folder with one folder per class, or with train/ and val/ (and test/)", values)  # noqa: E501  # fmt: skip
    text("train_dir", None, "folder with one folder per class, to train on", values)
    text("val_dir", None, "folder with one folder per class, to validate on", values)
    text("test_dir", None, "folder with one folder per class, read once at the end", values)
    text("dataset", None, "a TensorFlow Datasets name, such as cats_vs_dogs; or solar_cells", values)
    text("manifest", None, "CSV file with columns path, label and, if wished, split, group", values)
    flags.DEFINE_float(
        "validation_fraction",
        0.2,
        "share of the training part kept for validation, or a number of examples from 1 upward",
        flag_values=values,
    )
    number("split_seed", 0, "which examples are kept for validation", flag_values=values)
    number("limit_examples", None, "keep so many of each part, for a dry run", flag_values=values)
    choice(values, "on_bad_image", "skip", specs.ON_BAD_IMAGE, "what a broken picture does")


def define_model(values: flags.FlagValues) -> None:
    number = flags.DEFINE_integer
    choice(values, "backbone", "efficientnet_lite0", BACKBONES, "the pretrained network")
    flags.DEFINE_string("weights", "imagenet", "imagenet, none, or a Keras weight file", values)
    flags.DEFINE_string("init_from", None, "a finished run to start from", values)
    number("head_units", 0, "units of a hidden layer before the last; 0 for none", flag_values=values)
    flags.DEFINE_float("dropout", 0.0, "share dropped before the last layer", flag_values=values)
    flags.DEFINE(
        Size(), "image_size", None, "H or HxW in pixels; the backbone's own if not given", values
    )
    choice(values, "resize", "squash", specs.RESIZES, "how a picture of another shape is made to fit")


def define_training(values: flags.FlagValues) -> None:
    number = flags.DEFINE_integer
    flags.DEFINE_multi_string(
        "phase",
        None,
        "name(key=value, ...), once for each phase; keys: trainable (head, all, a stage or layer), "
        f"epochs, optimizer ({', '.join(OPTIMIZERS)}), learning_rate, schedule "
        f"({', '.join(SCHEDULES)}), warmup_steps or warmup_epochs, batch_norm "
        f"({', '.join(specs.BATCH_NORM)}), weight_decay, clip_norm, early_stop (epochs), and the "
        "optimizer's and schedule's own",
        flag_values=values,
    )
    flags.DEFINE_string(
        "augment",
        BLOG_AUGMENTATION,
        f"augmentations joined by |, or none; allowed: {', '.join(augment.AUGMENTATIONS)}",
        flag_values=values,
    )
    number("batch_size", 32, "examples per step", flag_values=values)
    choice(values, "precision", "float32", specs.PRECISIONS, "of the network's arithmetic")
    flags.DEFINE_float("label_smoothing", 0.0, "0 up to 1", flag_values=values)
    choice(values, "class_weights", "none", specs.CLASS_WEIGHTS, "weight of each class in the loss")
    number("seed", 0, "of the order, the augmentation, dropout and the head", flag_values=values)
    flags.DEFINE_bool("deterministic", False, "same bits on a GPU too, slower", flag_values=values)


def define_run(values: flags.FlagValues) -> None:
    flags.DEFINE_string("run_dir", None, "the run; default: runs/ and the flag file's name", values)
    flags.DEFINE_integer("threads", None, "CPU threads; all cores if not given", flag_values=values)


def parse(
    usage: str, define: Sequence[Callable[[flags.FlagValues], None]], argv: Sequence[str]
) -> Parsed:
    """Reads the flags of a program.

    `--help` prints them all and exits with 0.

    Raises:
      FlagError: an unknown flag, a value that does not fit, or a flag file that can't be read.
    """
    values = flags.FlagValues()
    for group in define:
        group(values)
    program = Path(argv[0]).name
    if {"--help", "-help", "-h", "-?"} & set(argv[1:]):
        print(help_text(program, usage, values))
        raise SystemExit(0)
    tokens = _expand(values, argv[1:])
    try:
        words = values([argv[0], *tokens])[1:]
    except flags.UnrecognizedFlagError as error:
        name = error.flagname.split("=")[0]
        hint = nearest(name, [*values, "flagfile", "help"])
        raise FlagError(f"--{name} is no flag{hint}; bin/{program} --help lists all") from None
    except flags.Error as error:
        raise FlagError(str(error).replace("\n", " ")) from None
    given = [name for token in tokens if (name := _name(token)) in values]
    return Parsed(values, given, words)


def _name(token: str) -> str:
    return token.lstrip("-").split("=")[0] if token.startswith("-") else ""


def _expand(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """The arguments with flag files in their place, less what the command line overrides."""
    tokens: list[tuple[str, bool]] = []
    waiting = list(argv)
    while waiting:
        token = waiting.pop(0)
        if _name(token) != "flagfile":
            tokens.append((token, False))
            continue
        file = token.split("=", 1)[1] if "=" in token else waiting.pop(0) if waiting else ""
        tokens += [(line, True) for line in _read_flagfile(values, file)]
    direct = {_name(token) for token, from_file in tokens if not from_file}
    again = direct & set(LISTS)
    return [token for token, from_file in tokens if not (from_file and _name(token) in again)]


def _read_flagfile(values: flags.FlagValues, file: str) -> list[str]:
    try:
        return values.read_flags_from_files([f"--flagfile={file}"])
    except (flags.Error, OSError, UnicodeDecodeError):
        known = sorted(path.name for path in Path(__file__).parent.parent.glob("*.flags"))
        hint = nearest(Path(file).name, known)
        raise FlagError(
            f"--flagfile={file}: can't be read{hint}; Unfreeze brings {', '.join(known)}"
        ) from None


def help_text(program: str, usage: str, values: flags.FlagValues) -> str:
    lines = [f"usage: bin/{program} [--flagfile=FILE] {usage}", ""]
    for name in values:
        flag = values[name]
        default = "" if flag.default in (None, False) else f" (default: {flag.default_as_str})"
        title = f"  --[no]{name}" if flag.boolean else f"  --{name}=…"
        lines.append(title + default)
        lines += textwrap.wrap(flag.help, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += ["  --flagfile=FILE", "      a file with one flag a line; flags after it override it"]
    return "\n".join(lines)


def flagfile_name(argv: Sequence[str]) -> str | None:
    """`cats_dogs` for `--flagfile=some/cats_dogs.flags`; the last one where there are several."""
    names = [Path(b).stem for a, b in zip(argv, [*argv[1:], ""], strict=True) if a == "--flagfile"]
    names += [Path(a.split("=", 1)[1]).stem for a in argv if a.startswith("--flagfile=")]
    return names[-1] if names else None


def data_spec(parsed: Parsed) -> DataSpec | None:
    """The data that the flags name, or None where they name none."""
    named = [name for name in parsed.given if name in SOURCE_FLAGS]
    if not named:
        return None
    last = named[-1]
    location = getattr(parsed, last)
    source = {"data_dir": "folders", "train_dir": "split_folders", "dataset": "tfds"}.get(last, last)
    folders = source == "split_folders"
    return DataSpec(
        source=source,
        location=location if source == "tfds" else _absolute(location),
        validation_location=_absolute(parsed.val_dir) if folders and parsed.val_dir else None,
        test_location=_absolute(parsed.test_dir) if folders and parsed.test_dir else None,
        validation_fraction=parsed.validation_fraction,
        split_seed=parsed.split_seed,
        limit_examples=parsed.limit_examples,
        on_bad_image=parsed.on_bad_image,
    )


def _absolute(path: str) -> str:
    """As the run is taken up from anywhere; addresses such as gs://… stay as they are."""
    return path if "://" in path else str(Path(path).expanduser().absolute())


def recipe(parsed: Parsed) -> Recipe:
    """The run that the flags describe.

    Raises:
      UserError: a value that does not fit, or no data.
    """
    data = data_spec(parsed)
    if data is None:
        raise FlagError(
            "no pictures are named; give --data_dir, --train_dir and --val_dir, --dataset or "
            "--manifest, or start with --flagfile=solar_cells.flags"
        )
    backbone = BACKBONES[parsed.backbone]
    size = backbone.image_size
    made = Recipe(
        data=data,
        phases=tuple(specs.parse_phase(text) for text in parsed.phase or _default(backbone.opened)),
        backbone=parsed.backbone,
        image_size=parsed.image_size or (size, size),
        weights=parsed.weights if parsed.weights in ("imagenet", "none") else _absolute(parsed.weights),
        init_from=_absolute(parsed.init_from) if parsed.init_from else None,
        head_units=parsed.head_units,
        dropout=parsed.dropout,
        resize=parsed.resize,
        augment=specs.parse_calls(parsed.augment),
        label_smoothing=parsed.label_smoothing,
        class_weights=parsed.class_weights,
        batch_size=parsed.batch_size,
        precision=parsed.precision,
        seed=parsed.seed,
        deterministic=parsed.deterministic,
    )
    recipes.check(made)
    augment.changes(made.augment)
    return made


def _default(opened: str) -> list[str]:
    """The blog's two phases: a new head on the frozen network, then the opened top at a low rate."""
    return [
        "transfer(trainable=head, epochs=2, optimizer=rmsprop, learning_rate=1e-3)",
        f"fine_tune(trainable={opened}, epochs=2, optimizer=sgd, momentum=0.9, learning_rate=1e-4)",
    ]
