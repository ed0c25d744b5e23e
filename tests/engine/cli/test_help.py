"""Help and mistyped flags: answered at once, without TensorFlow."""

from __future__ import annotations

import re

import pytest
from absl import flags

from engine.cli import flags as cli_flags
from engine.optim.optimizers import OPTIMIZERS
from engine.optim.schedules import SCHEDULES
from pipelines.augment.changes import AUGMENTATIONS
from tests.bin.programs import ROOT, program, without_tensorflow


@pytest.mark.parametrize(
    "name", ["train", "evaluate", "predict", "export", "serve", "doctor", "benchmark"]
)
def test_help_lists_all_flags_without_tensorflow(name):
    done = without_tensorflow(name, "--help", "--nonsense")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: bin/{name} [--flagfile=FILE] ")
    about = (ROOT / "bin" / name).read_text().split('"""')[1]
    assert done.stdout.splitlines()[1:4] == ["", about, ""]
    assert "--flagfile=FILE" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
    assert not re.search(r"\btiny\b", done.stdout), "the backbone of tests"
    if name != "train":
        return
    values = flags.FlagValues()
    for group in cli_flags.RUN:
        group(values)
    listed = [line.strip() for line in done.stdout.splitlines() if line.startswith("  --")]
    own = (
        "recipe",
        "overwrite",
        "checkpoint_minutes",
        "log_every_steps",
        "steps_per_execution",
    )
    for flag in [*values, *own]:
        assert any(line.startswith((f"--{flag}=", f"--[no]{flag}")) for line in listed), flag
    for allowed in (*OPTIMIZERS, *SCHEDULES, *AUGMENTATIONS, "inception_v3", "mixed_float16"):
        assert allowed in done.stdout
    assert "--seed=… (default: 0)" in listed


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train", "--bacth_size=3", "did you mean 'batch_size'?"),
        ("train", "--batch_size=0", "allowed: a whole number, 1 or more"),
        ("train", "--data_dir=x --phase=a(epochs=-1)", "epochs=-1; allowed: a whole number, 0"),
        (
            "train",
            "--data_dir=x --phase=a(trainable=block99)",
            "no stage and no layer has",
        ),
        ("train", "--data_dir=x --augment=rotat(3)", "did you mean 'rotate'?"),
        ("train", "--flagfile=solar_cels.flags", "did you mean 'solar_cells.flags'?"),
        ("train", "--recipe=gone.json", "can't be read (No such file or directory)"),
        ("evaluate", "--format=jsn", "did you mean 'json'?"),
        ("predict", "--backbone=resnet5", "did you mean 'resnet50'?"),
    ],
)
def test_mistyped_flag_ends_with_2_without_tensorflow(name, arguments, message):
    done = without_tensorflow(name, *arguments.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"{name}: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, "one line"


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        program("train").main(["bin/train", "--version"])
    assert ended.value.code == 0
    assert f"version = {capsys.readouterr().out}" in (ROOT / "setup.cfg").read_text()
