"""The model card: its programs run, its figures are right, and names do no harm in it."""

import base64
import dataclasses
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
from tests.engine.export import leaving
from tests.engine.export.test_parity import GOOD

RESULT = {
    "validation": {"accuracy": 0.987, "loss": 0.0412, "count": 1000},
    "calibration": {"temperature": 1.3, "error_before": 0.021, "error_after": 0.008},
}


def written(given, name="onnx", result=RESULT, data=None):
    kind, recipe = FORMATS[name], given.opened.recipe
    return card.write(given, kind, GOOD, result, [1, 2, 3], data or recipe.data)


def program(text: str) -> str:
    return re.search(r"```python\n(.*?)```", text, re.S)[1]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> list[Path]:
    """Smooth ones, of several shapes, one turned by EXIF, one grey with alpha."""
    place = tmp_path_factory.mktemp("photographs")
    names = ("wide.png", "tall.png", "turned.png", "grey.png")
    sizes = ((90, 31), (33, 70), (64, 41), (50, 50))
    whole = small.smooth_images(16).astype(np.uint8)
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        image = Image.fromarray(whole[number]).resize(size, Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "turned.png" else 1
        (image.convert("LA") if name == "grey.png" else image).save(place / name, exif=exif)
    return [place / name for name in names]


@pytest.mark.parametrize("rule", ["eager", "both"])
@pytest.mark.parametrize("name", FORMATS)
def test_the_program_of_a_card_runs_for_a_stranger_and_answers_as_the_model(
    name, rule, photographs, tmp_path
):
    given = leaving.subject(leaving.RULES[rule])
    FORMATS[name].write(given, tmp_path / FORMATS[name].path)
    out = leaving.as_a_stranger(program(written(given, name)), *photographs, cwd=tmp_path)
    images = np.stack([given.decode(path.read_bytes()).numpy() for path in photographs])
    wanted = leaving.wanted(given, images)
    decided = decision_rule.decide(given.rule, given.classes, wanted)
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[0] for row in rows] == [str(path) for path in photographs]
    assert [row[1] for row in rows] == [[*given.classes, "uncertain"][place] for place in decided]
    own = np.where(decided < 0, wanted.max(-1), wanted[np.arange(len(wanted)), decided])
    assert (own < wanted.max(-1)).any() == (rule == "eager")
    assert np.abs([float(row[2]) for row in rows] - own).max() < 0.001


def test_the_request_of_a_card_can_be_sent_for_a_large_image(tmp_path):
    """The system takes no argument of 128 KiB; photographs are larger."""
    image = np.random.default_rng(0).bytes(1_000_000)
    (tmp_path / "image.jpg").write_bytes(image)
    text = written(leaving.subject(), "saved_model")
    _, request = re.findall(r"```sh\n(.*?)```", text, re.S)
    (tmp_path / "curl").write_text('#!/bin/sh\ncat > sent\necho "$@" > told\n')
    (tmp_path / "curl").chmod(0o755)
    way = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-ec", request], cwd=tmp_path, env=way, check=True)
    (instance,) = json.loads((tmp_path / "sent").read_text())["instances"]
    assert base64.b64decode(instance["image_bytes"]["b64"]) == image
    told = (tmp_path / "told").read_text()
    assert told == "--data-binary @- http://localhost:8501/v1/models/images:predict\n"


def test_int8_says_what_it_was_calibrated_on():
    given = leaving.subject(precision="int8", samples=leaving.smooth_images(5))
    assert "calibrated on 5 training images" in written(given, "litert")
    assert "calibrated on" not in written(leaving.subject(), "litert")


@pytest.mark.parametrize("rule", ["tempered", "sharp"])
def test_apps_are_promised_what_holds(rule):
    """MediaPipe refuses a second output; see test_lite_metadata.py."""
    text = written(leaving.subject(leaving.RULES[rule]), "litert")
    assert ("takes the file as it is" in text) == (rule == "tempered")
    assert ("decision`, int32" in text) == ("refuse it for `decision`" in text) == (rule == "sharp")


@pytest.fixture(scope="module")
def files(photographs, tmp_path_factory) -> list[Path]:
    """Also with a palette, a thread of an image, and JPEGs so large that they are read smaller."""
    place = tmp_path_factory.mktemp("files")
    whole = Image.fromarray(small.smooth_images(16).astype(np.uint8)[5])
    images = {
        "palette.gif": whole.resize((61, 47)).quantize(64),
        "thread.png": whole.resize((3, 211)),
        "large_grey.jpg": whole.resize((403, 301), Image.Resampling.BICUBIC).convert("L"),
        **{f"{n}.jpg": whole.resize((517, 389), Image.Resampling.BICUBIC) for n in range(1, 9)},
    }
    for name, image in images.items():
        exif = Image.Exif()
        exif[0x0112] = int(name[0]) if name[0].isdigit() else 1
        image.save(place / name, exif=exif)
    return [*photographs, *(place / name for name in images)]


def pixels_of_a_card(given, size):
    """The function in the program of a card."""
    recipe = dataclasses.replace(given.opened.recipe, image_size=size)
    given = dataclasses.replace(given, opened=dataclasses.replace(given.opened, recipe=recipe))
    text = program(f"{snippets.of_pixels(given, ('zipfile',), '')}").split("images =")[0]
    scope: dict = {}
    exec(text, scope)
    return scope["pixels"]


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(8, 8), (24, 40), (31, 17)])
def test_images_are_resized_as_in_training(resize, size, files):
    """The rest is float32 against Pillow's float64, where a value lies at a half."""
    pixels = pixels_of_a_card(leaving.subject(resize=resize, network=small.network()), size)
    differing = []
    for path in files:
        mine = pixels(path).astype(int)
        difference = np.abs(mine - decode(path.read_bytes(), *size, resize).numpy())
        assert mine.shape == (*size, 3)
        assert difference.max() <= 1, path.name
        differing.append(np.mean(difference > 0))
    assert np.mean(differing) < 0.001


def test_the_interval_is_wilsons():
    """Worked out by hand: Wilson 1927, z = 1.959964; and the limits at no mistake."""
    z, n, p = 1.959963985, 1000, 0.987
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert card.interval(p, n) == f"{middle - half:.2%} to {middle + half:.2%}"
    assert card.interval(1.0, 8) == f"{8 / (8 + z**2):.2%} to 100.00%"


def test_figures_of_the_run_stand_in_it():
    text = written(leaving.subject())
    assert "| validation | 1,000 | 98.70% | 97.79% to 99.24% | 0.0412 |" in text
    assert "2.10% without it and 0.80% with it" in text
    assert "no figures" not in text
    assert "has not come to its end" in written(leaving.subject(), result={})


def test_the_rule_stands_in_it():
    text = written(leaving.subject(leaving.RULES["both"]))
    assert "temperature 0.7 before" in text
    assert "newts where its probability is at least 0.3000" in text
    assert "left open where no label has a probability of 0.5800." in text


def test_names_do_no_harm():
    evil = ("<script>alert(1)</script>", "a|b\n# c", "![x](http://example.org) `_*&amp;$x$")
    text = written(leaving.subject(classes=evil))
    assert "<script>" not in text
    assert "\n# c" not in text
    rows = [line for line in text.splitlines() if re.match(r"\| \d \| ", line)]
    assert len(rows) == 3
    shown = [re.split(r"(?<!\\) \| ", row)[1] for row in rows]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)
    # As CommonMark reads them: backslash before punctuation, and entities.
    read = [html.unescape(re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", name)) for name in shown]
    assert read == [name.replace("\n", "\\n") for name in evil]


def test_no_folder_above_the_data_is_told():
    data = DataSpec("folders", "/home/someone/secret/flowers")
    recipe = dataclasses.replace(leaving.subject().opened.recipe, data=data)
    given = leaving.subject()
    given = dataclasses.replace(given, opened=dataclasses.replace(given.opened, recipe=recipe))
    text = written(given)
    assert "flowers" in text
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
def test_where_the_weights_came_from(changes, words):
    text = card.licence(small.recipe(**changes))
    assert words in text
    assert "/home/me" not in text
