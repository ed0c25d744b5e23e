"""The model card: its programs run, its numbers are right, and names are escaped."""

import base64
import html
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.core.recipe import RESIZES, DataSpec
from engine.evaluation import decision_rule
from engine.export import card, snippets
from engine.export.formats import FORMATS
from pipelines.decode.decode import decode
from tests.engine import small
from tests.engine.export import export_cases
from tests.engine.export.test_parity import GOOD

RESULT = {
    "validation": {"accuracy": 0.987, "loss": 0.0412, "count": 1000},
    "calibration": {"temperature": 1.3, "error_before": 0.021, "error_after": 0.008},
}


def render(source, name="onnx", result=RESULT, data=None):
    kind, recipe = FORMATS[name], source.loaded_run.recipe
    return card.render(source, kind, GOOD, result, [1, 2, 3], data or recipe.data)


def program(text: str) -> str:
    return re.search(r"```python\n(.*?)```", text, re.S)[1]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> list[Path]:
    """Smooth images of several shapes, one rotated by EXIF, one grey with alpha."""
    folder = tmp_path_factory.mktemp("photographs")
    names = ("wide.png", "tall.png", "turned.png", "grey.png")
    sizes = ((90, 31), (33, 70), (64, 41), (50, 50))
    whole = small.smooth_images(16).astype(np.uint8)
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        image = Image.fromarray(whole[number]).resize(size, Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "turned.png" else 1
        (image.convert("LA") if name == "grey.png" else image).save(folder / name, exif=exif)
    return [folder / name for name in names]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *((name, "eager") for name in FORMATS),
        *(
            pytest.param(name, "both", marks=() if name == "onnx" else pytest.mark.slow)
            for name in FORMATS
        ),
    ],
)
def test_card_program_outside_project_predicts_as_model(name, rule, photographs, tmp_path):
    source = export_cases.export_source(export_cases.RULES[rule])
    FORMATS[name].write(source, tmp_path / FORMATS[name].path)
    output = export_cases.run_outside_project(
        program(render(source, name)), *photographs, cwd=tmp_path
    )
    images = np.stack([source.decode(path.read_bytes()).numpy() for path in photographs])
    expected = export_cases.expected_probabilities(source, images)
    decisions = decision_rule.decide(source.rule, source.classes, expected)
    rows = [line.split("\t") for line in output.splitlines()]
    assert [row[0] for row in rows] == [str(path) for path in photographs]
    assert [row[1] for row in rows] == [
        [*source.classes, "uncertain"][index] for index in decisions
    ]
    best = expected.max(-1)
    shown = np.where(decisions < 0, best, expected[np.arange(len(expected)), decisions])
    assert (shown < best).any() == (rule == "eager")
    assert np.abs([float(row[2]) for row in rows] - shown).max() < 0.001


def test_card_request_with_large_image_is_sent(tmp_path):
    """Photographs exceed the 128 KiB that Linux allows for an argument."""
    image = np.random.default_rng(0).bytes(1_000_000)
    (tmp_path / "image.jpg").write_bytes(image)
    text = render(export_cases.export_source(), "saved_model")
    _, request = re.findall(r"```sh\n(.*?)```", text, re.S)
    (tmp_path / "curl").write_text('#!/bin/sh\ncat > sent\necho "$@" > arguments\n')
    (tmp_path / "curl").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-ec", request], cwd=tmp_path, env=environment, check=True)
    (instance,) = json.loads((tmp_path / "sent").read_text())["instances"]
    assert base64.b64decode(instance["image_bytes"]["b64"]) == image
    assert (
        tmp_path / "arguments"
    ).read_text() == "--data-binary @- http://localhost:8501/v1/models/images:predict\n"


def test_card_of_int8_names_calibration_images():
    source = export_cases.export_source(
        precision="int8", calibration_images=export_cases.smooth_images(5)
    )
    assert "calibrated on 5\ntraining images" in render(source, "litert")
    assert "calibrated on" not in render(export_cases.export_source(), "litert")


@pytest.mark.parametrize("rule", ["tempered", "sharp"])
def test_card_promises_app_support_without_decision_output_only(rule):
    """MediaPipe refuses a second output; see test_lite_metadata.py."""
    text = render(export_cases.export_source(export_cases.RULES[rule]), "litert")
    assert ("takes the file unchanged" in text) == (rule == "tempered")
    assert ("decision`, int32" in text) == ("refuse its second output" in text) == (rule == "sharp")


@pytest.fixture(scope="module")
def files(photographs, tmp_path_factory) -> list[Path]:
    """Adds a palette, a very thin image, and JPEGs large enough for Pillow's draft."""
    folder = tmp_path_factory.mktemp("files")
    whole = Image.fromarray(small.smooth_images(16).astype(np.uint8)[5])
    images = {
        "palette.gif": whole.resize((61, 47)).quantize(64),
        "deep_grey.png": Image.fromarray(np.asarray(whole.convert("L")).astype(np.uint16) * 251),
        "thread.png": whole.resize((3, 211)),
        "large_grey.jpg": whole.resize((403, 301), Image.Resampling.BICUBIC).convert("L"),
        **{f"{n}.jpg": whole.resize((517, 389), Image.Resampling.BICUBIC) for n in range(1, 9)},
    }
    for name, image in images.items():
        exif = Image.Exif()
        exif[0x0112] = int(name[0]) if name[0].isdigit() else 1
        image.save(folder / name, exif=exif)
    return [*photographs, *(folder / name for name in images)]


def card_pixels_function(source):
    """Returns the function `pixels` of a card's program."""
    text = program(snippets.pixel_program(source, "numpy", "")).split("images =")[0]
    scope: dict = {}
    exec(text, scope)
    return scope["pixels"]


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(8, 8), (24, 40), (31, 17)])
def test_card_program_resizes_as_training(resize, size, files):
    """Float32 and Pillow's float64 may round a value at a half differently."""
    source = export_cases.export_source(resize=resize, network=small.network(), image_size=size)
    pixels = card_pixels_function(source)
    differing = []
    for path in files:
        resized = pixels(path).astype(int)
        difference = np.abs(resized - decode(path.read_bytes(), *size, resize).numpy())
        assert resized.shape == (*size, 3)
        assert difference.max() <= 1, path.name
        differing.append(np.mean(difference > 0))
    assert np.mean(differing) < 0.001


def test_card_shows_run_metrics():
    text = render(export_cases.export_source())
    assert "| validation | 1,000 | 98.70% | 97.79% to 99.24% | 0.0412 |" in text
    assert "2.10% without it and 0.80% with it" in text
    assert "has not finished" in render(export_cases.export_source(), result={})


def test_card_shows_decision_rule():
    text = render(export_cases.export_source(export_cases.RULES["both"]))
    assert "temperature 0.7 before" in text
    assert "newts if its probability is at least 0.3000" in text
    assert "uncertain if no label has a probability of at least 0.5800." in text


def test_card_escapes_names():
    names = ("<script>alert(1)</script>", "a|b\n# c", "![x](http://example.org) `_*&amp;$x$")
    text = render(export_cases.export_source(classes=names))
    assert "<script>" not in text
    assert "\n# c" not in text
    rows = [line for line in text.splitlines() if re.match(r"\| \d \| ", line)]
    assert len(rows) == 3
    shown = [re.split(r"(?<!\\) \| ", row)[1] for row in rows]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)
    # Unescaped as by CommonMark: backslash before punctuation, and entities.
    unescaped = [html.unescape(re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", name)) for name in shown]
    assert unescaped == [name.replace("\n", "\\n") for name in names]


def test_card_hides_parent_folders_of_dataset():
    data = DataSpec("folders", "/home/someone/secret/flowers", limit_examples=70)
    moved = DataSpec("folders", "/home/other/secret/roses")
    text = render(export_cases.export_source(data=data), data=moved)
    assert "folders flowers, at most 70 images of each split; compared on folders roses." in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "efficientnet_lite1", "weights": "imagenet"}, "efficientnet-lite1-pytorch"),
        ({"backbone": "resnet50", "weights": "imagenet"}, "weights that Keras distributes"),
        ({"weights": "/home/me/own.weights.h5"}, "weight file own.weights.h5"),
        ({"weights": "none"}, "random weights"),
        ({"init_from": "/home/me/run"}, "weights of another run"),
    ],
)  # fmt: skip
def test_weights_licence_names_origin(changes, words):
    text = card.weights_licence(small.recipe(**changes))
    assert words in text
    assert "/home/me" not in text
