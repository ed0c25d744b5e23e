"""Runs that are killed or asked to end at random moments: the same end as one left alone."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.bin.programs import SMALL, run, start

pytestmark = pytest.mark.usefixtures("own_cache")

TINY = (
    *("--backbone=tiny", "--weights=none", "--image_size=32", "--batch_size=8", "--noreport"),
    *("--validation_fraction=0.25", "--phase=transfer(epochs=3)"),
    "--phase=fine_tune(trainable=middle, epochs=3, optimizer=sgd, learning_rate=1e-2)",
)
# Which precision is fastest here is measured by each run for itself; checkpoints after each step.
FIXED = ("--dropout=0.2", "--checkpoint_minutes=0")
FLOAT32 = (*FIXED, "--precision=float32")
INTERRUPTED = 130
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
KINDS = {
    "views of kept features drawn anew": (
        25,
        (*SMALL[:3], *FLOAT32, "--validation_fraction=0.25", "--cache=features", "--augment=flip",
         "--phase=head(epochs=6, views=2, refresh=0.3, schedule=cosine, warmup_steps=4)",
         "--phase=top(trainable=block7, epochs=6, optimizer=adam, views=2, refresh=0.5)"),
    ),
    "float16 with its loss scale, in pieces": (
        25,
        (*SMALL[:3], *FIXED, "--validation_fraction=0.25", "--precision=mixed_float16",
         "--gradient_accumulation_steps=2",
         "--cache=pixels", "--augment=rotate(10)|flip", "--phase=head(epochs=5)",
         "--phase=top(trainable=block7, epochs=5, optimizer=sgd, momentum=0.9, schedule=linear)"),
    ),
    "inception_v3": (
        5,
        ("--backbone=inception_v3", "--weights=none", "--image_size=96", "--batch_size=8", *FLOAT32,
         "--validation_fraction=0.25", "--phase=head(epochs=3)",
         "--phase=top(trainable=mixed9, epochs=3, optimizer=sgd)"),
    ),
}  # fmt: skip
STARTED = 2.0  # seconds after which a program has surely read its flags, and listens to signals


def finished(place: Path) -> bool:
    try:
        return json.loads((place / "result.json").read_text())["status"] == "finished"
    except (OSError, ValueError):
        return False


def end(process: subprocess.Popen, number: signal.Signals, listens: bool = True) -> bool:
    """Sends the signal; whether it ended the program, and not the program itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    _, err = process.communicate(timeout=600)
    deaf = () if listens else (-number, INTERRUPTED)
    assert process.returncode in (0, -signal.SIGKILL, 75, *deaf), err
    if process.returncode == 75:
        assert err.startswith(f"train: stopped by {number.name}; started again")
        assert err.count("\n") == 1
    return process.returncode != 0


def newest(place: Path) -> Path | None:
    return max((place / "checkpoints").glob("step_*.npz"), default=None)


def same_end(one: Path, other: Path) -> None:
    for mine, theirs in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    rows = [
        [row[:8] for row in csv.reader((place / "history.csv").open())] for place in (one, other)
    ]
    assert rows[0] == rows[1]


def arrays(place: Path) -> list[np.ndarray]:
    """Of the last checkpoint and the best model."""
    files = [np.load(path) for path in (newest(place), place / "best.npz")]
    names = [sorted(set(file.files) - {"values"}) for file in files]
    return [file[name] for file, mine in zip(files, names, strict=True) for name in mine]


def test_killed_and_asked_to_end_a_run_ends_with_the_same_bits(coloured, tmp_path):
    """Killed, then asked to, each somewhere between a new checkpoint and the end."""
    command = ("train", *TINY, *FLOAT32, f"--data_dir={coloured}")
    run(*command, f"--run_dir={tmp_path / 'undisturbed'}")
    place, seed = tmp_path / "killed", random.randrange(2**32)
    chance = random.Random(seed)
    print("seed of the moments:", seed)
    for number in SIGNALS[:2]:
        before = newest(place)
        process = start(*command, f"--run_dir={place}", start_new_session=True)
        while process.poll() is None and newest(place) == before:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.5))
        end(process, number)
        if finished(place):
            break
    else:
        run(*command, f"--run_dir={place}")
    same_end(place, tmp_path / "undisturbed")


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_so_does_one_that_is_ended_time_and_again(coloured, tmp_path, kind):
    """At any moment, from the start of the process on; begun anew where it came to its end."""
    wanted, flags = KINDS[kind]
    command = ("train", *flags, f"--data_dir={coloured}")
    started = time.monotonic()
    run(*command, f"--run_dir={tmp_path / 'undisturbed'}")
    whole, seed = time.monotonic() - started, random.randrange(2**32)
    chance, ended, runs = random.Random(seed), 0, 0
    print("seed of the moments:", seed)
    while ended < wanted:
        place, runs = tmp_path / f"run_{runs}", runs + 1
        while ended < wanted and not finished(place):
            process = start(*command, f"--run_dir={place}", start_new_session=True)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment := chance.uniform(0, whole))
            ended += end(process, chance.choice(SIGNALS), listens=moment > STARTED)
        if not finished(place):
            run(*command, f"--run_dir={place}")
        same_end(place, tmp_path / "undisturbed")
    print(f"{kind}: ended {ended} times, runs: {runs}, each with the same bits")
