"""Runs that are killed or asked to end at random moments: the same end as one left alone."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from engine.runs.directory import RunDirectory
from tests.bin.programs import run, start
from tests.engine.small_runs import same_end

COMMON = (
    *("--weights=none", "--batch_size=8", "--validation_fraction=0.25", "--noreport"),
    "--checkpoint_minutes=0",  # checkpoints after each step
)
# Which precision is fastest is measured by each run for itself.
TINY = (
    *("--backbone=tiny", "--image_size=32", "--precision=float32", "--dropout=0.2"),
    "--phase=transfer(epochs=3)",
    "--phase=fine_tune(trainable=middle, epochs=3, optimizer=sgd, learning_rate=1e-2)",
)
LITE = ("--backbone=efficientnet_lite0", "--image_size=64", "--dropout=0.2")
KINDS = {
    "tiny": (6, TINY),
    "cached features of views that are redrawn": (
        25,
        (*LITE, "--precision=float32", "--cache=features", "--augment=flip",
         "--phase=head(epochs=6, views=2, refresh=0.3, schedule=cosine, warmup_steps=4)",
         "--phase=top(trainable=block7, epochs=6, optimizer=adam, views=2, refresh=0.5)"),
    ),
    "float16 with its loss scale, in microbatches": (
        25,
        (*LITE, "--precision=mixed_float16", "--gradient_accumulation_steps=2", "--cache=pixels",
         "--augment=rotate(10)|flip", "--phase=head(epochs=5)",
         "--phase=top(trainable=block7, epochs=5, optimizer=sgd, momentum=0.9, schedule=linear)"),
    ),
    "inception_v3": (
        5,
        ("--backbone=inception_v3", "--image_size=96", "--precision=float32",
         "--phase=head(epochs=3)", "--phase=top(trainable=mixed9, epochs=3, optimizer=sgd)"),
    ),
}  # fmt: skip
INTERRUPTED = 130
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
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


def test_run_that_is_killed_and_stopped_ends_with_the_same_bits(coloured, tmp_path):
    """Killed, then stopped, each somewhere between a new checkpoint and the end.

    The run left alone goes on though nobody reads what it prints.
    """
    command = ("train", *TINY, *COMMON, f"--data_dir={coloured}")
    alone = start(*command, f"--run_dir={tmp_path / 'undisturbed'}")
    alone.stdout.close()
    alone.stderr.close()
    assert alone.wait(600) == 0
    place, seed = tmp_path / "killed", random.randrange(2**32)
    moments = random.Random(seed)
    print("seed of the moments:", seed)
    for number in SIGNALS[:2]:
        before = newest(place)
        process = start(*command, f"--run_dir={place}", start_new_session=True)
        while process.poll() is None and newest(place) == before:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.5))
        end(process, number)
        if finished(place):
            break
    else:
        run(*command, f"--run_dir={place}")
    assert same_end(RunDirectory(place), RunDirectory(tmp_path / "undisturbed"))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("tiny", marks=pytest.mark.slow),
        *(pytest.param(kind, marks=pytest.mark.soak) for kind in KINDS if kind != "tiny"),
    ],
)
def test_run_that_is_ended_many_times_ends_with_the_same_bits(coloured, tmp_path, kind):
    """At any moment, from the start of the process on; a new run begins where one finished."""
    wanted, flags = KINDS[kind]
    command = ("train", *flags, *COMMON, f"--data_dir={coloured}")
    started = time.monotonic()
    run(*command, f"--run_dir={tmp_path / 'undisturbed'}")
    whole, seed = time.monotonic() - started, random.randrange(2**32)
    moments, ended, runs = random.Random(seed), 0, 0
    print("seed of the moments:", seed)
    while ended < wanted:
        place, runs = tmp_path / f"run_{runs}", runs + 1
        while ended < wanted and not finished(place):
            process = start(*command, f"--run_dir={place}", start_new_session=True)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment := moments.uniform(0, whole))
            ended += end(process, moments.choice(SIGNALS), listens=moment > STARTED)
        if not finished(place):
            run(*command, f"--run_dir={place}")
        assert same_end(RunDirectory(place), RunDirectory(tmp_path / "undisturbed"))
    print(f"{kind}: ended {ended} times, runs: {runs}, each with the same bits")
