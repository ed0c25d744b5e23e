"""bin/benchmark: measurements, their files, comparisons with baselines, the self test."""

from __future__ import annotations

import json
import re

import pytest
import tensorflow as tf

from engine.benchmark.time_to_accuracy import TimedRun
from engine.cli import benchmark as cli_benchmark
from engine.cli import command_line
from engine.cli import flags as cli_flags
from engine.commands import benchmark, compare_baselines, self_test
from engine.core.errors import UserError
from engine.models.backbones import BACKBONES
from pipelines.loading import batches
from pipelines.sources import reader, sources
from tests.engine import tiny
from tests.engine.small_runs import small_recipe

JOB = (
    "--backbone=tiny", "--weights=none", "--image_size=32", "--batch_size=8",
    "--augment=flip|brightness(0.1)", "--precision=float32", "--repeats=1",
    "--phase=transfer(epochs=2, learning_rate=1e-2)",
    "--phase=fine_tune(trainable=middle, epochs=1, optimizer=sgd)",
)  # fmt: skip


@pytest.fixture
def measure(call, coloured, monkeypatch):
    """Runs bin/benchmark on the job; a sample is as short as it can be."""
    monkeypatch.setattr("engine.benchmark.timing.SAMPLE_SECONDS", 0.01)
    monkeypatch.setattr("engine.benchmark.phase_benchmark.SAMPLE_SECONDS", 0.01)
    return lambda *flags: call("benchmark", *JOB, f"--data_dir={coloured}", *flags)


def test_benchmark_prints_a_table_and_writes_a_file_to_compare(call, measure, tmp_path):
    folder, plot = tmp_path / "results", tmp_path / "plot.png"
    named = ("--instance_type=box.small", "--price_per_hour=0.5", f"--out={folder}/")
    out = measure("--batch_sizes=4,8", *named)
    (path,) = folder.glob("*.json")
    value = json.loads(path.read_text())
    rows = [(row["batch_size"], row["phase"]) for row in value["rows"]]
    assert rows == [(size, phase) for size in (4, 8) for phase in ("transfer", "fine_tune")]
    assert value["instance_type"] == "box.small"
    assert value["command"].startswith("bin/benchmark --backbone=tiny")
    assert all(row["whole"]["median"] > 0 for row in value["rows"])
    assert "tiny 32x32, float32, phase fine_tune" in out
    assert f"written to {path}" in out
    assert call.said.err.count(" is the limit: ") == 4
    assert call("benchmark", "--compare", path, f"--plot={plot}").count("box.small") >= 4
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_other_backbones_open_their_own_stages():
    argv = ["bin/benchmark", *JOB, "--data_dir=x", "--backbones=mobilenet,resnet50"]
    parsed = command_line.parse("[flags]", (*cli_flags.RUN, cli_benchmark.define_benchmark), argv)
    recipes = cli_benchmark.variants(parsed, cli_flags.build_recipe(parsed))
    assert [recipe.backbone for recipe in recipes] == ["mobilenet", "resnet50"]
    for recipe in recipes:
        opened = BACKBONES[recipe.backbone].fine_tune_from
        assert [phase.trainable for phase in recipe.phases] == ["head", opened]


def test_prediction_is_measured_with_its_decoding_and_network(measure, tmp_path):
    path = tmp_path / "result.json"
    out = measure("--predict", "--precisions=float32,mixed_bfloat16", f"--out={path}")
    rows = json.loads(path.read_text())["rows"]
    assert [row["precision"] for row in rows] == ["float32", "mixed_bfloat16"]
    for row in rows:
        assert row["phase"] == "predict"
        assert set(row["stages"]) == {"input", "trunk"}
        assert row["whole"]["median"] < min(each["median"] for each in row["stages"].values())
    assert "tiny 32x32, float32, phase predict" in out


def test_stages_are_compared_with_keras_and_written(measure, tmp_path):
    out = measure("--compare_baselines", "--seeds=0", "--backbones=tiny", f"--out={tmp_path}")
    for title in (
        "augmentation / Keras layers", "input from files / bare decoding",
        "transfer: frozen layers / Keras", "fine_tune: update / Keras",
        "fine_tune: loop / bare step",
    ):  # fmt: skip
        assert re.search(rf"{title} +[\d,]+ / +[\d,]+ images/s = ", out)
    assert "seed 0" not in out
    (path,) = tmp_path.glob("baselines_*.json")
    assert f"written to {path}" in out
    written = json.loads(path.read_text())
    assert written["runs"] == []
    assert written["command"].startswith("bin/benchmark --backbone=tiny")
    for row in written["stages"]:
        assert row["backbone"] == "tiny"
        assert f"{row['stage']:36} {row['ours']['median']:9,.0f} / " in out
        assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]


@pytest.mark.parametrize(
    "baseline", ["image_data_generator", pytest.param("fit", marks=pytest.mark.slow)]
)
def test_whole_runs_are_timed_to_the_target_accuracy(measure, monkeypatch, baseline, tmp_path):
    """Of processes: `bin/train`, and a baseline."""
    monkeypatch.setattr(compare_baselines, "_compare_stages", lambda *_: [])
    monkeypatch.setattr(compare_baselines, "ROOT", tiny.environment()["PYTHONPATH"])
    flags = ("--compare_baselines", f"--baselines={baseline}", "--target_accuracy=0.5")
    out = measure(*flags, f"--out={tmp_path / 'runs.json'}")
    runs = json.loads((tmp_path / "runs.json").read_text())["runs"]
    assert [(run["program"], run["seed"]) for run in runs] == [("bin/train", 0), (baseline, 0)]
    assert all(run["run"]["epochs"][-1][1] >= 0.5 for run in runs)
    for name in ("bin/train", baseline):
        assert re.search(rf"seed 0, {name}: 50.0% in epoch \d", out)
        assert re.search(rf"first read to target +{name} ", out)


@pytest.mark.slow
def test_self_test_passes_here(call):
    out = call("benchmark", "--self_test")
    assert out.count("passed") == 5
    assert "FAILED" not in out


def test_self_test_names_checks_that_fail(call, monkeypatch):
    def fail(recipe, threads):
        raise RuntimeError("no kernel\nof this device")

    checks = {"one": lambda recipe, threads: "", "two": fail, "three": lambda *_: "3 differ"}
    monkeypatch.setattr(self_test, "CHECKS", checks)
    with pytest.raises(UserError, match="self test: two, three failed on this machine"):
        call("benchmark", "--self_test")
    device, *lines = call.said.out.splitlines()
    assert device.startswith("on ")
    assert lines == [
        "  passed one, 0 s",
        "  FAILED two, 0 s  RuntimeError: no kernel",
        "  FAILED three, 0 s  3 differ",
    ]


def test_medians_name_runs_that_never_reach_the_target():
    fast, slow = TimedRun(5.0, ((15.0, 0.99),)), TimedRun(2.0, ((40.0, 0.97),))
    medians = compare_baselines._medians
    assert list(medians({"bin/train": [fast], "fit": [slow]}, target=0.98)) == [
        "first read to target     bin/train                10.0 s (10.0 s to 10.0 s), "
        "  1.0 x bin/train",
        "first read to target     fit                       never (never to never)",
        "process start to target  bin/train                15.0 s (15.0 s to 15.0 s), "
        "  1.0 x bin/train",
        "process start to target  fit                       never (never to never)",
    ]
    lines = list(medians({"bin/train": [slow], "fit": [fast]}, target=0.98))
    assert not any("x bin/train" in line for line in lines)


def test_decoding_alone_has_as_many_images_in_flight_as_the_data_loader(coloured, monkeypatch):
    recipe, counts, real = small_recipe(coloured), [], tf.data.Dataset.map

    def counting(dataset, function, num_parallel_calls=None, **settings):
        counts.append(num_parallel_calls)
        return real(dataset, function, num_parallel_calls, **settings)

    monkeypatch.setattr(tf.data.Dataset, "map", counting)
    examples = sources.load_examples(recipe.data).subset("train")
    benchmark.decode_only(examples, recipe, 3)
    alone, counts[:] = counts[:], []
    next(batches.ImageDataLoader(examples, recipe, 3).train_batches(0, 1))
    assert alone == [3 * reader.IMAGES_PER_THREAD]
    assert alone[0] in counts
