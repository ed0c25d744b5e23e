"""bin/benchmark as a person starts it."""

from __future__ import annotations

import json
import re

import pytest

from pipelines.sources import reader
from tests.bin.test_programs import run

JOB = (
    "--backbone=mobilenet_v2", "--weights=none", "--image_size=32", "--batch_size=8",
    "--augment=flip|brightness(0.1)", "--precision=float32",
    "--phase=transfer(epochs=2, learning_rate=1e-2)",
    "--phase=fine_tune(trainable=block_16, epochs=1, optimizer=sgd)",
)  # fmt: skip


@pytest.fixture(scope="module")
def results(coloured, tmp_path_factory):
    """A folder with the result of two backbones, and what was printed."""
    folder = tmp_path_factory.mktemp("results")
    out = run(
        "benchmark", *JOB, f"--data_dir={coloured}", "--repeats=1", f"--out={folder}/",
        "--backbones=mobilenet_v2,mobilenet", "--instance_type=box.small", "--price_per_hour=0.5",
        f"--cache_dir={folder / 'cache'}",
    )  # fmt: skip
    return folder, out


def test_it_prints_a_table_and_writes_a_file(results):
    folder, out = results
    (path,) = folder.glob("*.json")
    value = json.loads(path.read_text())
    rows = [(row["backbone"], row["phase"]) for row in value["rows"]]
    phases = ("transfer", "fine_tune")
    assert rows == [(name, phase) for name in ("mobilenet_v2", "mobilenet") for phase in phases]
    assert value["instance_type"] == "box.small"
    assert "mobilenet 32x32, float32, phase fine_tune" in out
    assert f"written to {path}" in out
    for row in value["rows"]:
        assert row["whole"]["median"] > 0


def test_results_are_compared_and_drawn(results, tmp_path):
    folder, _ = results
    (path,) = folder.glob("*.json")
    plot = tmp_path / "plot.png"
    out = run("benchmark", "--compare", path, f"--plot={plot}")
    assert out.count("box.small") >= 4
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--compare",), 2, "no file is named"),
        (("result.json",), 2, "result files follow --compare"),
        (("--compare", "missing.json"), 1, "missing.json"),
        (("--data_dir=x", "--backbones=mobilnet"), 2, "did you mean 'mobilenet'"),
        (("--data_dir=x", "--batch_sizes=16,many"), 2, "'many'; allowed: whole numbers"),
        (("--data_dir=x", "--compare_baselines", "--baselines=fits"), 2, "did you mean 'fit'"),
        (("--data_dir=x", "--plot=a.png"), 2, "--plot has no use here; it goes with --compare"),
        (
            ("--data_dir=x", "--seeds=3"),
            2,
            "--seeds has no use here; it goes with --compare_baselines",
        ),
        (
            ("--compare_baselines", "--out=a.json"),
            2,
            "--out has no use with --compare_baselines; it goes alone",
        ),
        (("--compare", "--repeats=3", "a.json"), 2, "it goes alone or with --compare_baselines"),
        (("--compare", "--self_test"), 2, "--self_test; allowed: one of them"),
    ],
)
def test_a_mistake_is_one_line(arguments, status, message):
    out = run("benchmark", *arguments, status=status)
    assert message in out
    assert out.count("\n") == 1


def test_prediction_is_measured_against_what_it_is_made_of(coloured, tmp_path):
    path = tmp_path / "result.json"
    flags = (*JOB, f"--data_dir={coloured}", "--repeats=1", "--predict")
    out = run("benchmark", *flags, "--precisions=float32,mixed_bfloat16", f"--out={path}")
    rows = json.loads(path.read_text())["rows"]
    assert [row["precision"] for row in rows] == ["float32", "mixed_bfloat16"]
    for row in rows:
        assert row["phase"] == "predict"
        assert set(row["stages"]) == {"input", "trunk"}
        assert row["whole"]["median"] < min(each["median"] for each in row["stages"].values())
    assert "mobilenet_v2 32x32, float32, phase predict" in out


def test_peers_do_the_same_job(coloured, tmp_path):
    out = run(
        "benchmark", *JOB, f"--data_dir={coloured}", "--repeats=1", "--compare_baselines", "--seeds=1",
        "--target_accuracy=0.5", f"--cache_dir={tmp_path}",
    )  # fmt: skip
    assert re.search(r"augmentation / Keras layers +[\d,]+ / +[\d,]+ images/s", out)
    for name in ("bin/train", "fit", "blog"):
        assert re.search(rf"seed 0, {name}: 50.0% in epoch \d", out)
        assert re.search(rf"first read to target +{name} ", out)


def test_the_self_test_passes_here():
    out = run("benchmark", "--self_test")
    assert out.count("good") == 4
    assert "FAILED" not in out


def test_a_way_that_never_reaches_the_target_says_so():
    from engine.benchmark.time_to_accuracy import Course
    from engine.commands import benchmark_baselines

    fast, slow = Course(5.0, ((15.0, 0.99),)), Course(2.0, ((40.0, 0.97),))
    lines = list(benchmark_baselines._compared({"bin/train": [fast], "fit": [slow]}, target=0.98))
    assert lines == [
        "first read to target     bin/train      10.0 s (10.0 s to 10.0 s),   1.0 x bin/train",
        "first read to target     fit             never (never to never)",
        "process start to target  bin/train      15.0 s (15.0 s to 15.0 s),   1.0 x bin/train",
        "process start to target  fit             never (never to never)",
    ]
    lines = list(benchmark_baselines._compared({"bin/train": [slow], "fit": [fast]}, target=0.98))
    assert lines == [
        "first read to target     bin/train       never (never to never)",
        "first read to target     fit            10.0 s (10.0 s to 10.0 s)",
        "process start to target  bin/train       never (never to never)",
        "process start to target  fit            15.0 s (15.0 s to 15.0 s)",
    ]


def test_the_bare_yardstick_has_as_many_images_in_flight_as_ours(coloured, monkeypatch):
    import tensorflow as tf

    from engine.commands import benchmark_baselines
    from pipelines.loading import batches
    from pipelines.sources import sources
    from tests.engine.small_runs import small_recipe

    recipe, counts, real = small_recipe(coloured), [], tf.data.Dataset.map

    def counting(dataset, function, num_parallel_calls=None, **settings):
        counts.append(num_parallel_calls)
        return real(dataset, function, num_parallel_calls, **settings)

    monkeypatch.setattr(tf.data.Dataset, "map", counting)
    examples = sources.load_examples(recipe.data).subset("train")
    benchmark_baselines.bare(examples, recipe, 3)
    bare, counts[:] = counts[:], []
    next(batches.ImageDataLoader(examples, recipe, 3).train_batches(0, 1))
    assert bare == [3 * reader.IMAGES_PER_THREAD]
    assert bare[0] in counts
