"""`python -m engine.cli train …`: the programs of bin/, wherever this package lies."""

import importlib
import sys

from engine.cli import main

PROGRAMS = ("train", "evaluate", "predict", "export", "serve", "doctor", "benchmark")

if __name__ == "__main__":
    program = sys.argv[1]
    sys.argv[:2] = [program]
    main.main(importlib.import_module(f"engine.cli.{program}").main)
