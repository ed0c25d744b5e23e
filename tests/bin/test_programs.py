"""The programs as a person starts them: train, evaluate, predict."""

from __future__ import annotations

import csv
import functools
import http.server
import itertools
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from PIL import Image

from engine.runs import load
from engine.runs.directory import RunDirectory
from pipelines.decode.decode import decode
from tests.bin.programs import SMALL, run, start
from tests.bin.test_killed import same_end
from tests.pipelines import every_format
from tests.pipelines.every_format import KINDS, SIZES

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def trained(coloured, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("trained") / "run"
    sheet = place.parent / "augmented.png"
    out = run(
        "train", *SMALL, f"--data_dir={coloured}", f"--run_dir={place}", f"--show_augmented={sheet}"
    )
    assert "39 training images, 13 validation images; 2 classes: blue, red" in out
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
    assert set(plan["phases"]) == {"transfer", "fine_tune"}
    times = ("seconds", "wait_seconds", "fill_seconds", "eval_seconds", "save_seconds")
    assert set(result["spent"]) == set(times)
    assert 0 < result["spent"]["save_seconds"] < result["seconds_total"]
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
    assert measured == pytest.approx(result["validation"], rel=1e-6)
    # The epochs were measured with the frozen part in its fastest precision.
    assert answer["loss"] == pytest.approx(result["best"]["val_loss"], rel=0.05, abs=0.02)
    assert answer["count"] == 13 == np.sum(answer["confusion_matrix"])
    assert answer["classes"] == ["blue", "red"] == list(answer["per_class"])


def test_evaluate_other_images_as_a_table(trained, coloured):
    out = run("evaluate", f"--run_dir={trained}", f"--data_dir={coloured}")
    assert out.startswith("52 images: accuracy")


def test_evaluate_and_predict_look_again(trained, coloured):
    """The mean over an image and its mirror image, by the saved network itself."""
    opened = load.load_run(RunDirectory(trained))
    files = sorted(coloured.glob("*/*.jpg"))
    images = np.stack([decode(file.read_bytes(), 64, 64).numpy() for file in files])
    pair = [
        opened.model(seen.astype(np.float32), training=False) / opened.rule.temperature
        for seen in (images, images[:, :, ::-1])
    ]
    chances = np.mean([scipy.special.softmax(one, -1) for one in pair], 0)
    rows = json.loads(run("predict", f"--run_dir={trained}", "--tta=flip", "--format=json", *files))
    found = [{one["label"]: one["probability"] for one in row["predictions"]} for row in rows]
    np.testing.assert_allclose([one["red"] for one in found], chances[:, 1], rtol=0, atol=1e-5)
    flags = (f"--run_dir={trained}", f"--data_dir={coloured}", "--format=json")
    measured = json.loads(run("evaluate", *flags, "--tta=flip"))
    labels = np.array([file.parent.name == "red" for file in files], int)
    confusion = np.zeros([2, 2], int)
    np.add.at(confusion, (labels, chances.argmax(-1)), 1)
    assert measured["confusion_matrix"] == confusion.tolist()


def test_views_that_can_not_be_had_are_refused(trained, coloured, tmp_path):
    image = coloured / "red" / "00.jpg"
    for wrong in ("1", "mirror"):
        message = run("predict", f"--tta={wrong}", image, status=2)
        assert message.endswith("allowed: a whole number, 2 or more, or flip\n")
    assert "give --run_dir, or --tta=flip" in run("predict", "--tta=4", image, status=2)
    shutil.copytree(trained, tmp_path / "run")
    recipe = json.loads((trained / "recipe.json").read_text()) | {"augment": []}
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(recipe))
    for program, more in (("evaluate", f"--data_dir={coloured}"), ("predict", image)):
        message = run(program, f"--run_dir={tmp_path / 'run'}", "--tta=4", more, status=1)
        assert "--tta=4 draws from the run's own augmentation, but it has none" in message
        assert message.count("\n") == 1


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
    broken.write_bytes(b"no image")
    plot = tmp_path / "plot.png"
    process = start(
        "predict", f"--run_dir={trained}", "--format=json", f"--plot={plot}",
        coloured / "red" / "00.jpg", broken, coloured / "blue", cwd=tmp_path,
    )  # fmt: skip
    out, err = process.communicate(timeout=300)
    answer = json.loads(out)
    assert process.returncode == 0
    assert len(answer) == 28
    unread = answer.pop(1)
    assert (unread["path"], unread["predictions"]) == (str(broken), [])
    assert unread["problem"].startswith("not an image")
    assert {row["problem"] for row in answer} == {None}
    assert answer[0]["path"].endswith("red/00.jpg")
    assert answer[0]["predictions"][0]["label"] == "red"
    assert sum(p["probability"] for p in answer[0]["predictions"]) == pytest.approx(1, abs=1e-5)
    assert all(row["predictions"][0]["label"] == "blue" for row in answer[1:])
    assert f"{broken}: not an image" in err
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def address(coloured, monkeypatch):
    """Of an image, on a server of this machine's."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=coloured)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/red/00.jpg"
        server.shutdown()
        thread.join()


def test_predict_asks_hosts_of_this_network_only_where_it_is_told_to(trained, address):
    flags = (f"--run_dir={trained}", "--format=csv", address)
    assert "--allow_private_urls fetches it all the same" in run("predict", *flags, status=1)
    rows = list(csv.DictReader(run("predict", "--allow_private_urls", *flags).splitlines()))
    assert (rows[0]["path"], rows[0]["label"]) == (address, "red")


def test_predict_without_a_run_names_imagenet_classes():
    import matplotlib

    image = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    rows = list(csv.DictReader(run("predict", "--format=csv", image).splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert "uniform" in rows[0]["label"]


@pytest.mark.parametrize("of_a_run", [True, False])
def test_predict_explains_in_its_plot(trained, coloured, tmp_path, of_a_run):
    """A third image wide, and taller for every image that could be read."""
    broken, plot = tmp_path / "broken.jpg", tmp_path / "plot.png"
    broken.write_bytes(b"no image")
    flags = [f"--run_dir={trained}"] if of_a_run else []
    files = [coloured / "red" / "00.jpg", broken, coloured / "blue" / "01.jpg"]
    run("predict", *flags, "--batch_size=1", "--explain", f"--plot={plot}", *files)
    with Image.open(plot) as image:
        assert image.size == (1200, 640)


def test_predict_explains_nowhere_but_in_a_plot(trained, coloured):
    message = run("predict", "--explain", coloured / "red" / "00.jpg", status=2)
    assert message == "predict: --explain draws into a plot; give --plot=FILE.png with it\n"


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


def test_a_new_run_of_its_recipe_has_the_same_bits(trained, tmp_path):
    """Whatever precision the first one chose: what it decided is taken up, not measured anew."""
    place, flags = tmp_path / "again", ("--cache_memory=0", "--steps_per_execution=3")
    run("train", f"--recipe={trained / 'recipe.json'}", f"--run_dir={place}", *flags)
    for name in ("recipe.json", "plan.json"):
        assert (place / name).read_bytes() == (trained / name).read_bytes()
    same_end(place, trained)


def test_predict_and_evaluate_give_the_numbers_of_the_saved_network(trained, tmp_path):
    """For every kind of file; the network is Keras' own, and nothing in it is folded."""
    files = [
        every_format.write(tmp_path / ("blue", "red")[number % 2], kind, size, number)
        for number, (kind, size) in enumerate(zip(KINDS, itertools.cycle(SIZES), strict=False))
    ]
    predicted = json.loads(run("predict", f"--run_dir={trained}", "--format=json", *files))
    assert [row["path"] for row in predicted] == list(map(str, files))
    answers = [{p["label"]: p["probability"] for p in row["predictions"]} for row in predicted]
    chances = np.array([[answer["blue"], answer["red"]] for answer in answers])
    opened = load.load_run(RunDirectory(trained))
    images = [decode(path.read_bytes(), *opened.recipe.image_size).numpy() for path in files]
    logits = opened.model(np.stack(images).astype(np.float32), training=False)
    wanted = scipy.special.softmax(logits / np.float32(opened.rule.temperature), -1)
    assert opened.rule.temperature != 1
    np.testing.assert_allclose(chances, wanted, rtol=0, atol=1e-5)
    measured = json.loads(
        run("evaluate", f"--run_dir={trained}", f"--data_dir={tmp_path}", "--format=json")
    )
    labels = np.arange(len(files)) % 2
    confusion = np.zeros([2, 2], int)
    np.add.at(confusion, (labels, chances.argmax(-1)), 1)
    assert measured["confusion_matrix"] == confusion.tolist()
    loss = -scipy.special.log_softmax(logits, -1)[np.arange(len(files)), labels].mean()
    assert measured["loss"] == pytest.approx(loss, rel=1e-4)


def test_a_run_starts_from_another(trained, coloured, tmp_path):
    out = run(
        "train", *SMALL[:-2], "--phase=more(epochs=1, learning_rate=1e-6)",
        f"--init_from={trained}", f"--data_dir={coloured}", f"--run_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert "head included" in out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["best"]["val_accuracy"] > 0.9


def test_broken_images_are_listed_and_left_out(coloured, tmp_path):
    data = tmp_path / "data"
    for name in ("blue", "red"):
        (data / name).mkdir(parents=True)
        for image in sorted((coloured / name).iterdir())[:8]:
            (data / name / image.name).symlink_to(image)
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
