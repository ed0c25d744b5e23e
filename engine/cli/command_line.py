"""How a command line is read: flag files, help, and the errors about mistyped flags.

absl adds a repeated flag on the command line to those of the flag file; here those on the command
line replace the file's. Flag files are read here too: always as UTF-8.
"""

from __future__ import annotations

import os
import re
import sysconfig
import textwrap
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path

from absl import flags

from engine.cli.parsed_flags import FlagError, ParsedFlags
from engine.core.errors import nearest
from engine.core.text import program
from engine.core.version import version

# Where flag files lie that Unfreeze comes with: beside bin/ in a checkout, or installed.
OWN_FOLDERS = (
    Path(__file__).parents[2],
    Path(sysconfig.get_path("data"), "share", "unfreeze"),
)
REPEATABLE = ("phase",)  # flags that may be given several times
# Flags that name the images, each with those that go with it alone. One holds: that of the command
# line, else that of the last flag file that has one.
SOURCES = {
    "data_dir": (),
    "train_dir": ("val_dir", "test_dir"),
    "dataset": (),
    "manifest": ("manifest_root",),
}
NEVER_EMPTY = ("run_dir", "out")  # other paths are omitted by `--name=`
# Names of other programs' flags for what is a key of a phase here.
PHASE_KEYS = {
    "num_epochs": "epochs=5",
    "lr": "learning_rate=1e-3",
    **dict.fromkeys(("optimizer", "opt"), "optimizer=adamw"),
    **dict.fromkeys(("schedule", "scheduler"), "schedule=cosine"),
    "weight_decay": "weight_decay=0.01",
}
MAX_NAME_LENGTH = 100  # letters of a flag's name
MAX_FLAG_FILE_BYTES = 1 << 20

DefineFlags = Callable[[flags.FlagValues], None]


def flag_names(groups: Iterable[DefineFlags]) -> list[str]:
    values = flags.FlagValues()
    for define in groups:
        define(values)
    return list(values)


def parse(
    usage: str,
    groups: Sequence[DefineFlags],
    argv: Sequence[str],
    ignored_in_files: Iterable[str] = (),
    about: str | None = None,
) -> ParsedFlags:
    """Reads the flags of a program.

    `--help` prints them all and exits with 0, as `--version` does. Arguments that are no flags are
    allowed where the usage ends with `...`.

    Args:
      ignored_in_files: flags of other programs, which a flag file may hold.
      about: what the program does, for `--help`.

    Raises:
      FlagError: an unknown flag, a value that is not allowed, a flag file that can't be read, or
        an argument where none is expected.
    """
    values = flags.FlagValues()
    for define in groups:
        define(values)
    command = Path(argv[0]).name
    if {"--help", "-help", "-h", "-?"} & set(argv[1:]):
        print(help_text(command, usage, about, values), flush=True)
        raise SystemExit(0)
    if "--version" in argv[1:]:
        print(version(), flush=True)
        raise SystemExit(0)
    placed, rest = _expand(argv[1:], {*ignored_in_files} - {*values})
    tokens, other_data = _choose_source(placed)
    for token in tokens:
        if len(_name(token)) > MAX_NAME_LENGTH:  # absl would look for a similar name for ever
            raise _unknown(command, _name(token), values)
    try:
        arguments = values([argv[0], *tokens, *rest])[1:]
    except flags.UnrecognizedFlagError as error:
        raise _unknown(command, error.flagname.split("=")[0], values) from None
    except flags.IllegalFlagValueError as error:
        raise FlagError(str(error).removeprefix("flag ")) from None
    except (flags.Error, ValueError) as error:  # absl raises a bare one for `--noflag=value`
        raise FlagError(str(error)) from None
    if arguments and not usage.endswith("..."):
        raise FlagError(_unexpected(command, arguments[0]))
    explicit = [name for token in tokens if (name := _flag_of(token, values)) in values]
    for name in {*explicit} & {*NEVER_EMPTY}:
        if not values[name].value:
            raise FlagError(f"--{name}= is empty; give a path, or omit it")
    return ParsedFlags(values, explicit, arguments, other_data)


def _unknown(command: str, name: str, values: flags.FlagValues) -> FlagError:
    hint = nearest(name, [*values, "flagfile", "help"])
    key = PHASE_KEYS.get(name.replace("-", "_"))
    if key and "phase" in values:
        hint = f": it belongs to a phase, as --phase='transfer({key})'"
    return FlagError(f"--{name} does not exist{hint}; {program(command)} --help lists all flags")


def _unexpected(command: str, word: str) -> str:
    hint = f"--flagfile={word}" if word.endswith(".flags") else f"{program(command)} --help"
    return f"{word!r} is no flag, and {command} takes nothing else; write {hint}"


def _name(token: str) -> str:
    return token.lstrip("-").split("=")[0] if token.startswith("-") else ""


def _flag_of(token: str, values: flags.FlagValues) -> str:
    """The flag that a token sets: `--noname` sets `name`."""
    name = _name(token)
    return name if name in values else name.removeprefix("no")


def _expand(
    argv: Sequence[str], ignored_in_files: Set[str]
) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Replaces flag files by their lines, less what the command line overrides.

    Returns:
      the tokens before `--`, each with the flag file that it is from or None, and `--` with what
      follows, which are arguments.
    """
    tokens: list[tuple[str, str | None]] = []
    waiting: deque[tuple[str, str | None]] = deque((token, None) for token in argv)
    read: set[str] = set()
    while waiting and waiting[0][0] != "--":
        token, place = waiting.popleft()
        if _name(token) != "flagfile":
            tokens.append((token, place))
            continue
        file = token.split("=", 1)[1] if "=" in token else waiting.popleft()[0] if waiting else ""
        if place is None or file not in read:  # a file that names itself would never end
            read.add(file)
            waiting.extendleft((line, file) for line in reversed(_read_flagfile(file)))
    direct = {_name(token) for token, place in tokens if place is None}
    dropped = {
        *(direct & set(REPEATABLE)),
        *ignored_in_files,
        *(f"no{name}" for name in ignored_in_files),
    }
    remaining = [
        (token, place) for token, place in tokens if place is None or _name(token) not in dropped
    ]
    return remaining, [token for token, _ in waiting]


def _choose_source(tokens: list[tuple[str, str | None]]) -> tuple[list[str], bool]:
    """Drops the flags of all sources of images but the one that holds.

    Returns:
      the tokens, and whether the command line's source replaced one of a flag file.

    Raises:
      FlagError: two sources in the same place.
    """
    named = [(_name(token), place) for token, place in tokens if _name(token) in SOURCES]
    if not named:
        return [token for token, _ in tokens], False
    places = [place for _, place in named]
    holds = None if None in places else places[-1]
    first, *others = dict.fromkeys(name for name, place in named if place == holds)
    if others:
        where = f" in {holds}" if holds else ""
        raise FlagError(
            f"--{first} and --{others[0]}{where} both name the images; omit one of them"
        )
    dropped = {*SOURCES, *(flag for name in {*SOURCES} - {first} for flag in SOURCES[name])}
    remaining = [
        token for token, place in tokens if place in (None, holds) or _name(token) not in dropped
    ]
    return remaining, holds is None and any(place is not None for place in places)


def _read_flagfile(file: str) -> list[str]:
    """The lines of a flag file, less the empty ones and the comments (`#` or `//`)."""
    try:
        with _find_flagfile(file).open("rb") as stream:  # a device has no end
            data = stream.read(MAX_FLAG_FILE_BYTES + 1)
        text = data.decode("utf-8-sig")  # editors on Windows put a mark before the text
        if "\0" in text or len(data) > MAX_FLAG_FILE_BYTES:
            raise ValueError
    except (OSError, ValueError) as error:
        no_text = f"it is no text in UTF-8 of up to {MAX_FLAG_FILE_BYTES:,} bytes"
        reason = error.strerror if isinstance(error, OSError) else no_text
        known = sorted({path.name for folder in OWN_FOLDERS for path in folder.glob("*.flags")})
        hint = nearest(Path(file).name, known)
        raise FlagError(
            f"--flagfile={file}: can't be read ({reason}){hint}; "
            f"Unfreeze comes with {', '.join(known)}"
        ) from None
    lines = [line.strip() for line in text.split("\n")]
    return [line for line in lines if line and not line.startswith(("#", "//"))]


def _find_flagfile(file: str) -> Path:
    """A file from the working directory, else the one of that name that Unfreeze comes with."""
    own = [folder / file for folder in OWN_FOLDERS if os.path.basename(file) == file]
    candidates = [Path(os.path.expanduser(file)), *own]
    return next((path for path in candidates if path.exists()), candidates[0])


def help_text(command: str, usage: str, about: str | None, values: flags.FlagValues) -> str:
    lines = [f"usage: {program(command)} [--flagfile=FILE] {usage}", ""]
    lines += [about, ""] if about else []
    for name in values:
        flag = values[name]
        text = " ".join(flag.help.split())
        default = flag.default
        if default is None or default is False:
            described = re.search(r"; default: ([^;]*)", text)
            default = described and described[1]
            text = re.sub(r"; default: [^;]*", "", text)
        default = (",".join(default) or None) if isinstance(default, tuple) else default
        title = f"  --[no]{name}" if flag.boolean else f"  --{name}=…"
        lines.append(title if default is None else f"{title} (default: {default})")
        lines += textwrap.wrap(text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += ["  --flagfile=FILE", "      a file with one flag a line; flags after it override it"]
    return "\n".join(lines)


def flagfile_name(argv: Sequence[str]) -> str | None:
    """`cats_dogs` for `--flagfile=some/cats_dogs.flags`; the last one where there are several."""
    names = [Path(b).stem for a, b in zip(argv, [*argv[1:], ""], strict=True) if a == "--flagfile"]
    names += [Path(a.split("=", 1)[1]).stem for a in argv if a.startswith("--flagfile=")]
    return names[-1] if names else None
