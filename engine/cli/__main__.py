"""`unfreeze train …`, or `python -m engine.cli train …`: the programs of bin/ from any folder."""

import functools
import importlib
import importlib.metadata
import sys

from engine.cli import main as program
from engine.cli.command_line import FlagError
from engine.core.errors import UserError, nearest
from engine.core.streams import open_streams

PROGRAMS = ("train", "evaluate", "predict", "export", "serve", "doctor", "benchmark")
USAGE = f"usage: unfreeze {{{','.join(PROGRAMS)}}} [flags]; unfreeze train --help lists its flags"


def main() -> None:
    """Runs the program that the first word names."""
    open_streams()
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in ("--help", "-h", "help"):
        print(USAGE)
    elif word == "--version":
        print(importlib.metadata.version("unfreeze"))
    elif word in PROGRAMS:
        sys.argv[:2] = [word]
        program.main(functools.partial(_run, word))
    else:
        program.main(lambda argv: _refuse(word))


def _run(word: str, argv: list[str]) -> None:
    """
    Raises:
      UserError: an optional package is missing.
    """
    try:
        importlib.import_module(f"engine.cli.{word}").main(argv)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in ("engine", "pipelines"):
            raise
        raise UserError(
            f"the package {error.name} is missing; install Unfreeze as unfreeze[export,serve]"
        ) from error


def _refuse(word: str) -> None:
    hint = nearest(word, PROGRAMS)
    raise FlagError(f"{word!r} does not exist{hint}; allowed: {', '.join(PROGRAMS)}")


if __name__ == "__main__":
    main()
