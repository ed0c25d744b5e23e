#!/usr/bin/env python3
"""Trains four small recipes at two commits and compares the weights, bit for bit.

usage: tests/same_bits_as.py [--data_dir=DIR] COMMIT [RECIPE …]

Runs `bin/train` of COMMIT (a worktree of it, made for the time) and of the working tree one after
the other, with precision, threads and cache fixed, and compares the weights of `best.npz` and of
the newest checkpoint, and the optimizer's variables. Exits with 0 where all are equal. COMMIT may
be from before flags got their
present names.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
COMMON = ("--limit_examples=40", "--batch_size=8", "--threads=2", "--noreport", "--seed=5")
HEAD = "--phase=head(trainable=head, epochs=2, learning_rate=1e-2)"
RECIPES = {
    "head_only": ("--image_size=64", "--precision=float32", "--cache=none", HEAD),
    "two_phases_cached": (
        *("--image_size=64", "--precision=float32", "--cache=features", "--dropout=0.2", HEAD),
        "--phase=top(trainable=block7, epochs=2, optimizer=sgd, momentum=0.9, learning_rate=1e-2)",
    ),
    "float16_accumulated": (
        *("--image_size=64", "--precision=mixed_float16", "--cache=none", HEAD),
        "--gradient_accumulation_steps=2",
        "--phase=top(trainable=block7, epochs=1, optimizer=adamw, learning_rate=1e-3)",
    ),
    "inception_v3": (
        *("--backbone=inception_v3", "--weights=none", "--image_size=96", "--precision=float32"),
        *("--cache=none", "--phase=top(trainable=mixed9, epochs=1, learning_rate=1e-3)"),
    ),
}
OLD_NAMES = {"--gradient_accumulation_steps": "--accumulate"}


def main() -> int:
    words = sys.argv[1:]
    flags = [word for word in words if word.startswith("--data_dir=")]
    data = flags or [f"--data_dir={ROOT.parent / 'shared' / 'data' / 'cats_dogs'}"]
    commit, *names = [word for word in words if word not in flags]
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder, "old")
        git("worktree", "add", "--detach", str(old), commit)
        try:
            results = [compare(name, old, Path(folder), data) for name in names or RECIPES]
        finally:
            git("worktree", "remove", "--force", str(old))
    return int(not all(results))


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True)


def compare(name: str, old: Path, folder: Path, data: list[str]) -> bool:
    flags = [*COMMON, *RECIPES[name], *data]
    arrays = []
    for tree in (old, ROOT):
        run = folder / f"{name}_{'old' if tree == old else 'new'}"
        train(tree, [*flags, f"--run_dir={run}", f"--cache_dir={folder / 'cache'}"])
        newest = max((run / "checkpoints").glob("*.npz"))
        arrays.append({**read(run / "best.npz"), **read(newest)})
    differing = [
        key for key, value in arrays[0].items() if value.tobytes() != arrays[1][key].tobytes()
    ]
    same = not differing and arrays[0].keys() == arrays[1].keys()
    print(f"{name}: {len(arrays[0])} arrays, {'equal' if same else f'{len(differing)} differ'}")
    return same


def train(tree: Path, flags: list[str]) -> None:
    has_new_names = (tree / "engine" / "cli").is_dir()
    for new, old in {} if has_new_names else OLD_NAMES.items():
        flags = [flag.replace(f"{new}=", f"{old}=") for flag in flags]
    command = [sys.executable, str(tree / "bin" / "train"), *flags]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{tree}: {done.stderr}")


def read(path: Path) -> dict[str, np.ndarray]:
    """The weights and the optimizer's variables of a model or checkpoint file."""
    with np.load(path, allow_pickle=False) as file:
        keys = [key for key in file.files if key.startswith(("model/", "optimizer/"))]
        return {f"{path.stem[:4]}/{key}": file[key] for key in keys}


if __name__ == "__main__":
    sys.exit(main())
