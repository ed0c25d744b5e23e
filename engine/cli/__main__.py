"""`unfreeze train …`, or `python -m engine.cli train …`: the programs of bin/ from any folder."""

import importlib
import importlib.metadata
import sys

from engine.cli import main as program
from engine.cli.command_line import FlagError
from engine.core.errors import nearest

PROGRAMS = ("train", "evaluate", "predict", "export", "serve", "doctor", "benchmark")
USAGE = f"usage: unfreeze {{{','.join(PROGRAMS)}}} [flags]; unfreeze train --help lists its flags"


def main() -> None:
    """Runs the program that the first word names."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in ("--help", "-h", "help"):
        print(USAGE)
    elif word == "--version":
        print(importlib.metadata.version("unfreeze"))
    elif word in PROGRAMS:
        sys.argv[:2] = [word]
        program.main(importlib.import_module(f"engine.cli.{word}").main)
    else:
        program.main(lambda argv: _refuse(word))


def _refuse(word: str) -> None:
    hint = nearest(word, PROGRAMS)
    raise FlagError(f"{word!r} does not exist{hint}; allowed: {', '.join(PROGRAMS)}")


if __name__ == "__main__":
    main()
