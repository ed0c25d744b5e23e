"""The programs as a person starts them: train, evaluate, predict, and a run that is killed."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "--backbone=efficientnet_lite0",
    "--image_size=64",
    "--batch_size=8",
    "--validation_fraction=0.25",
    "--phase=transfer(epochs=2, learning_rate=1e-2)",
    "--phase=fine_tune(trainable=block7, epochs=2, optimizer=sgd, learning_rate=1e-2)",
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Pictures are kept here, and not in the cache of whoever runs the tests."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place))
        yield place


def start(program, *arguments, cwd=ROOT, **settings) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "bin" / program), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, **pipes, **settings)


def run(program, *arguments, cwd=ROOT, status=0) -> str:
    """What a program prints; its error stream where it is to fail."""
    process = start(program, *arguments, cwd=cwd)
    out, err = process.communicate(timeout=600)
    assert process.returncode == status, f"{out}\n{err}"
    return err if status else out


@pytest.fixture(scope="module")
def trained(coloured, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("trained") / "run"
    sheet = place.parent / "augmented.png"
    out = run(
        "train", *SMALL, f"--data_dir={coloured}", f"--run_dir={place}", f"--show_augmented={sheet}"
    )
    assert "39 pictures to train on, 13 to validate on; 2 classes: blue, red" in out
    assert sheet.read_bytes().startswith(b"\x89PNG")
    return place


def test_a_run_directory_holds_what_the_readme_says(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["best"]["val_accuracy"] > 0.9, "red against blue is not hard"
    files = ("recipe.json", "plan.json", "history.csv", "history.png", "bad_images.csv", "best.npz")
    for name in files:
        assert (trained / name).stat().st_size > 0
    plan = json.loads((trained / "plan.json").read_text())
    assert set(plan["keeps"]) == {"transfer", "fine_tune"}
    assert set(result["spent"]) == {"seconds", "wait_seconds", "fill_seconds", "eval_seconds"}
    assert list((trained / "checkpoints").glob("*.npz"))
    assert list((trained / "events" / "train").glob("events*"))


def test_tensorboard_reads_what_was_written(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train, validation = (
        EventAccumulator(str(trained / "events" / part)) for part in ("train", "validation")
    )
    for events in (train, validation):
        events.Reload()
    assert {"step/loss", "epoch/loss", "epoch/accuracy"} <= set(train.Tags()["tensors"])
    assert {"epoch/accuracy", "confusion"} <= set(validation.Tags()["tensors"])
    assert "augmented" in train.Tags()["tensors"]
    assert len(validation.Tensors("epoch/accuracy")) == 4
    assert train.Tags()["graph"]


def test_evaluate_gives_the_figures_of_the_end_of_training(trained):
    answer = json.loads(run("evaluate", f"--run_dir={trained}", "--format=json"))
    result = json.loads((trained / "result.json").read_text())
    measured = {key: answer[key] for key in ("accuracy", "loss", "count")}
    assert measured == result["validation"]
    # The epochs were measured with the frozen part in its fastest precision.
    assert answer["loss"] == pytest.approx(result["best"]["val_loss"], rel=0.05, abs=0.02)
    assert answer["count"] == 13 == np.sum(answer["confusion_matrix"])
    assert answer["classes"] == ["blue", "red"] == list(answer["per_class"])


def test_evaluate_other_pictures_as_a_table(trained, coloured):
    out = run("evaluate", f"--run_dir={trained}", f"--data_dir={coloured}")
    assert out.startswith("52 pictures: accuracy")


def test_evaluate_refuses_a_class_that_the_model_does_not_know(trained, coloured, tmp_path):
    (tmp_path / "green").symlink_to(coloured / "red")
    (tmp_path / "blue").symlink_to(coloured / "blue")
    message = run("evaluate", f"--run_dir={trained}", f"--data_dir={tmp_path}", status=1)
    assert "'green'" in message
    assert "blue, red" in message
    assert "Traceback" not in message


def test_predict_names_files_and_folders_and_goes_on_after_a_broken_one(
    trained, coloured, tmp_path
):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    plot = tmp_path / "plot.png"
    process = start(
        "predict", f"--run_dir={trained}", "--format=json", f"--plot={plot}",
        coloured / "red" / "00.jpg", broken, coloured / "blue", cwd=tmp_path,
    )  # fmt: skip
    out, err = process.communicate(timeout=300)
    answer = json.loads(out)
    assert process.returncode == 0
    assert len(answer) == 27
    assert answer[0]["path"].endswith("red/00.jpg")
    assert answer[0]["predictions"][0]["label"] == "red"
    assert sum(p["probability"] for p in answer[0]["predictions"]) == pytest.approx(1, abs=1e-5)
    assert all(row["predictions"][0]["label"] == "blue" for row in answer[1:])
    assert f"{broken}: not a picture" in err
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_predict_without_a_run_names_imagenet_classes():
    import matplotlib

    picture = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    rows = list(csv.DictReader(run("predict", "--format=csv", picture).splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert "uniform" in rows[0]["label"]


def test_a_finished_run_is_left_alone(trained, coloured):
    before = {path: path.read_bytes() for path in trained.glob("*.*")}
    message = run("train", *SMALL, f"--data_dir={coloured}", f"--run_dir={trained}", status=1)
    assert "finished" in message
    assert "--run_dir=" in message
    assert "--overwrite" in message
    other = run(
        "train", *SMALL, f"--data_dir={coloured}", f"--run_dir={trained}", "--seed=1", status=1
    )
    assert "another recipe" in other
    assert before == {path: path.read_bytes() for path in trained.glob("*.*")}


def test_a_run_starts_from_another(trained, coloured, tmp_path):
    out = run(
        "train", *SMALL[:-2], "--phase=more(epochs=1, learning_rate=1e-6)",
        f"--init_from={trained}", f"--data_dir={coloured}", f"--run_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert "head included" in out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["best"]["val_accuracy"] > 0.9


def test_broken_pictures_are_listed_and_left_out(coloured, tmp_path):
    data = tmp_path / "data"
    for name in ("blue", "red"):
        (data / name).mkdir(parents=True)
        for picture in sorted((coloured / name).iterdir())[:8]:
            (data / name / picture.name).symlink_to(picture)
    (data / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    flags = (*SMALL[:-2], "--phase=transfer(epochs=1)", f"--data_dir={data}")
    run("train", *flags, f"--run_dir={tmp_path / 'skip'}")
    rows = list(csv.DictReader((tmp_path / "skip" / "bad_images.csv").open()))
    assert [Path(row["path"]).name for row in rows] == ["broken.jpg"]
    assert rows[0]["reason"]
    message = run(
        "train", *flags, "--on_bad_image=fail", f"--run_dir={tmp_path / 'fail'}", status=1
    )
    assert "broken.jpg" in message
    assert json.loads((tmp_path / "fail" / "result.json").read_text())["status"] == "failed"


def final_arrays(place: Path) -> list[np.ndarray]:
    newest = max((place / "checkpoints").glob("step_*.npz"))
    arrays = [np.load(path) for path in (newest, place / "best.npz")]
    names = [sorted(set(each.files) - {"values"}) for each in arrays]
    return [each[name] for each, mine in zip(arrays, names, strict=True) for name in mine]


def end_at_random(command: tuple, place: Path, chance: random.Random, number: int) -> None:
    """Starts a run and ends it by a signal between its first new checkpoint and its end."""
    process = start(*command, start_new_session=True)
    newest = max((place / "checkpoints").glob("step_*"), default=None)
    while (
        process.poll() is None
        and max((place / "checkpoints").glob("step_*"), default=None) == newest
    ):
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 2))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    _, err = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL, 75), err
    if process.returncode == 75:
        assert err == f"train: stopped by {number.name}; the same command goes on\n"


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), id="efficientnet_lite0"),
        pytest.param(
            ("--image_size=64", "--cache=features", "--phase=head(epochs=4, views=2, refresh=0.3)",
             "--phase=top(trainable=block7, epochs=3, optimizer=adam, views=2, refresh=0.5)"),
            id="kept features", marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--backbone=inception_v3", "--weights=none", "--image_size=96",
             "--phase=head(epochs=3)", "--phase=top(trainable=mixed9, epochs=3, optimizer=sgd)"),
            id="inception_v3", marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_killed_or_asked_to_end_a_run_ends_with_the_same_bits(coloured, tmp_path, flags):
    flags = (*(SMALL if not flags else SMALL[2:4]), *flags)
    # Which precision is fastest here is measured by each run for itself.
    fixed = ("--dropout=0.2", "--precision=float32", "--checkpoint_minutes=0")
    common = ("train", *flags, *fixed, f"--data_dir={coloured}")
    run(*common, f"--run_dir={tmp_path / 'undisturbed'}")
    place = tmp_path / "killed"
    seed = random.randrange(2**32)
    print("seed of the moments:", seed)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        end_at_random((*common, f"--run_dir={place}"), place, random.Random(seed), number)
    result = place / "result.json"
    if not result.exists() or json.loads(result.read_text())["status"] != "finished":
        run(*common, f"--run_dir={place}")
    for mine, other in zip(
        final_arrays(place), final_arrays(tmp_path / "undisturbed"), strict=True
    ):
        np.testing.assert_array_equal(mine, other)
    timeless = [
        [row[:8] for row in csv.reader((run_dir / "history.csv").open())]
        for run_dir in (place, tmp_path / "undisturbed")
    ]
    assert timeless[0] == timeless[1]
