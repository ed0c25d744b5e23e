"""`unfreeze train …`, or `python -m engine.cli train …`: the programs of bin/ from any folder."""

import importlib

from engine.cli import main as program
from engine.cli.parsed_flags import as_flag_errors
from engine.core.errors import UserError, choose
from engine.core.streams import open_streams
from engine.core.version import version

PROGRAMS = ("train", "evaluate", "predict", "export", "serve", "doctor", "benchmark")
USAGE = f"usage: unfreeze {{{','.join(PROGRAMS)}}} [flags]; unfreeze train --help lists its flags"


def main() -> None:
    """Runs the program that the first word names."""
    open_streams()
    program.main(_run)


def _run(argv: list[str]) -> None:
    """
    Raises:
      FlagError: there is no such program.
      UserError: an optional package is missing.
    """
    word = argv[1] if len(argv) > 1 else "--help"
    if word in ("--help", "-h", "help"):
        print(USAGE)
        return
    if word == "--version":
        print(version())
        return
    with as_flag_errors():
        choose(word, dict.fromkeys(PROGRAMS), "program")
    del argv[0]
    try:
        importlib.import_module(f"engine.cli.{word}").main(argv)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in ("engine", "pipelines"):
            raise
        raise UserError(
            f"the package {error.name} is missing; install Unfreeze as unfreeze[export,serve]"
        ) from error


if __name__ == "__main__":
    main()
