"""Data as users have it: labels like numbers, odd names, few images, classes of very unequal size.

Losses and accuracies are compared with NumPy and scikit-learn over Keras's logits.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import log_softmax
from sklearn.utils.class_weight import compute_class_weight

from engine.commands.open_run import open_run
from engine.core.recipe import DataSpec
from pipelines.sources import sources

LABELS = ("01", "1", "1.0", "1e3", "NA", "None", "false", "inf", "nan", "null", "ünder")
SMALL = ("--backbone=tiny", "--weights=none", "--image_size=32", "--noreport", "--augment=none")
SMALL += ("--precision=float32", "--dropout=0", "--cache_dir=none")


JSON = ("--format=json",)


def write_images(folder: bytes, count: int, seed: int = 0) -> list[str]:
    """Writes noise of 32x32 pixels, which is not resized; returns the paths."""
    os.makedirs(folder)
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    paths = [os.fsdecode(os.path.join(folder, b"%d.png" % number)) for number in range(count)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path, compress_level=1)
    return paths


def measure(run: Path, paths: list[str], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log probabilities [N, classes] by Keras, and whether the likeliest class is right, [N]."""
    images = np.stack([np.asarray(Image.open(path), np.float32) for path in paths])
    logits = np.asarray(open_run(run).model(images), float)
    return log_softmax(logits, -1), logits.argmax(-1) == labels


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "BOM"])
def test_manifest_of_any_line_end_has_its_labels_as_text(tmp_path, newline, mark):
    rows = [f"{label}/{number}.png,{label}" for label in LABELS for number in range(3)]
    text = mark + newline.join(["path,label", *rows]) + newline
    (tmp_path / "list.csv").write_bytes(text.encode())
    examples = sources.load_examples(DataSpec("manifest", str(tmp_path / "list.csv")))
    assert examples.classes == LABELS
    for path, label in zip(examples.paths, examples.labels, strict=True):
        assert Path(path).parent.name == LABELS[label]


def test_numbered_folders_are_classes_in_the_order_of_text(tmp_path):
    for number in range(12):
        write_images(os.fsencode(tmp_path / str(number)), 3, seed=number)
    examples = sources.load_examples(DataSpec("folders", str(tmp_path)))
    assert examples.classes == tuple(sorted(map(str, range(12))))
    assert {Path(path).parent.name for path in examples.paths[examples.labels == 2]} == {"10"}


def test_odd_labels_and_names_and_junk_from_training_to_predictions(call, tmp_path):
    """Junk is listed or passed over, as it may be, and never an image."""
    data, run = tmp_path / "data", tmp_path / "run"
    names = (*map(str.encode, LABELS), b"\xe9t\xe9")
    for seed, name in enumerate(names):
        folder = os.path.join(os.fsencode(data), name)
        first, *_ = write_images(folder, 4, seed)
        os.rename(first, os.path.join(folder, b"\xff \n=1+1.png"))
        for junk in (b".DS_Store", b"Thumbs.db", b"desktop.ini", b"._1.png", b"notes.txt"):
            Path(os.fsdecode(os.path.join(folder, junk))).write_bytes(b"no image")
    flags = (*SMALL, "--validation_fraction=0.25", "--batch_size=12", "--phase=head(epochs=1)")
    out = call("train", *flags, f"--data_dir={data}", f"--run_dir={run}")
    counts = re.search(r"(\d+) training images, (\d+) validation images; 12 classes", out).groups()
    assert sum(map(int, counts)) == 48
    classes = sorted((*LABELS, r"\xe9t\xe9"))
    metrics = json.loads(call("evaluate", f"--run_dir={run}", "--format=json", "--split=all"))
    assert (metrics["count"], sorted(metrics["classes"])) == (48, classes)
    assert np.sum(metrics["confusion_matrix"], -1).tolist() == [4] * 12
    images = [path for path in sorted(data.rglob("*.png")) if not path.name.startswith("._")]
    answers = tmp_path / "answers.csv"
    call("predict", f"--run_dir={run}", f"--out={answers}", "--top_k=12", *images)
    with open(answers, encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(path) for path in images]
    for row in rows:
        assert sorted(row[f"label_{rank}"] for rank in range(1, 13)) == classes


@pytest.mark.parametrize("size", [1, 7, 32])
def test_any_batch_size_counts_each_of_a_few_images_once(call, tmp_path, size):
    """32 are more than there are."""
    data, run = tmp_path / "data", tmp_path / "run"
    for label, name in enumerate("ab"):
        write_images(os.fsencode(data / name), 9 + label, seed=label)
    flags = (f"--batch_size={size}", "--validation_fraction=0.25", "--phase=head(epochs=2)")
    call("train", *SMALL, *flags, f"--data_dir={data}", f"--run_dir={run}")
    with open(run / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    examples = sources.load_examples(DataSpec("folders", str(data), validation_fraction=0.25))
    train = examples.subset("train")
    assert int(rows[-1]["step"]) == 2 * math.ceil(len(train) / size)
    for split in ("train", "validation"):
        part = examples.subset(split)
        logs, right = measure(run, part.paths, part.labels)
        found = json.loads(call("evaluate", f"--run_dir={run}", f"--split={split}", *JSON))
        assert (found["count"], found["accuracy"]) == (len(part), right.mean())
        loss = -logs[np.arange(len(part)), part.labels].mean()
        assert found["loss"] == pytest.approx(loss, rel=1e-4)


def test_one_image_among_800_has_its_weight_in_a_smoothed_loss(call, tmp_path):
    """Both losses are those of the weights at the start, which so small a rate leaves alone."""
    data, run, smoothing = tmp_path / "data", tmp_path / "run", 0.1
    write_images(os.fsencode(data / "common"), 1600)
    write_images(os.fsencode(data / "rare"), 2, seed=1)
    flags = ("--class_weights=balanced", f"--label_smoothing={smoothing}", "--batch_size=89")
    flags += ("--validation_fraction=0.5", "--phase=head(epochs=1, learning_rate=1e-9)")
    call("train", *SMALL, *flags, f"--data_dir={data}", f"--run_dir={run}")
    assert call.said.err == ""
    with open(run / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    examples = sources.load_examples(DataSpec("folders", str(data), validation_fraction=0.5))
    logs, labels = {}, {}
    for split in ("train", "validation"):
        part = examples.subset(split)
        assert np.bincount(part.labels).tolist() == [800, 1]
        logs[split], labels[split] = measure(run, part.paths, part.labels)[0], part.labels
    weights = compute_class_weight("balanced", classes=np.arange(2), y=labels["train"])
    targets = np.eye(2)[labels["train"]] * (1 - smoothing) + smoothing / 2
    loss = -(weights[labels["train"]] * (targets * logs["train"]).sum(-1)).mean()
    assert float(row["train_loss"]) == pytest.approx(loss, rel=1e-4)
    plain = -logs["validation"][np.arange(801), labels["validation"]].mean()
    assert float(row["val_loss"]) == pytest.approx(plain, rel=1e-4)
