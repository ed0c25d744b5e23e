"""TensorFlow Datasets: tiny data sets written here, read back at their place, offline."""

import errno
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from engine.core.errors import UserError
from engine.core.locks import FileLock
from engine.core.recipe import DataSpec
from pipelines.sources import sources, tfds_prepare
from pipelines.sources import tfds as tfds_source
from pipelines.sources.examples import read

COLOURS = ("red", "green", "blue")


def image(label, index):
    pixels = np.full((8, 8, 3), index % 251, np.uint8)
    pixels[..., max(label, 0)] = 255
    return pixels


class TinyColours(tfds.core.GeneratorBasedBuilder):
    """Three classes, splits of its own, the test split half without labels."""

    VERSION = tfds.core.Version("1.0.0")
    PARTS = {"train": 60, "validation": 12, "test": 10}  # noqa: RUF012
    CLASSES = COLOURS

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            supervised_keys=("image", "label"),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 3)),
                    "image/name": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=self.CLASSES),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {part: self._generate_examples(part) for part in self.PARTS}

    def _generate_examples(self, part):
        for index in range(self.PARTS[part]):
            label = -1 if part == "test" and index % 2 else index % 3
            name = f"{part}{index}"
            yield name, {"image": image(label, index), "image/name": name, "label": label}


class TinyTrain(TinyColours):
    """The same with a train split alone."""

    PARTS = {"train": 60}  # noqa: RUF012


class TinyTest(TinyColours):
    """The same with a test split alone."""

    PARTS = {"test": 10}  # noqa: RUF012


class TinyTwins(TinyTrain):
    """Two classes whose names look alike."""

    CLASSES = ("red", "gr\xfcn", "gru\u0308n")


class TinyTexts(tfds.core.GeneratorBasedBuilder):
    """No image in it."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()})
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"text": "x"}


class TinyBroken(TinyColours):
    """Fails in the middle of being prepared."""

    def _generate_examples(self, part):
        yield "first", {"image": image(0, 0), "image/name": "x", "label": 0}
        raise RuntimeError("the archive\nis damaged")


class TinySlow(TinyColours):
    """Takes its time, and counts how often it is prepared."""

    def _generate_examples(self, part):
        with open(os.path.join(self.data_dir_root, "count"), "a") as file:
            file.write(part + "\n")
        time.sleep(0.3)
        yield from super()._generate_examples(part)


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    return tmp_path


def load(name, **options):
    return sources.load_examples(DataSpec("tfds", name, **options))


def remains(folder):
    return list(folder.rglob("*incomplete*"))


def test_every_example_is_read_at_its_offset():
    examples = load("tiny_colours")
    assert examples.classes == COLOURS
    assert examples.subset("train").class_counts() == (20, 20, 20)
    assert examples.subset("validation").class_counts() == (4, 4, 4)
    assert sum(examples.subset("test").class_counts()) == 5  # those with a label
    expected = tfds.builder("tiny_colours").as_dataset(split="train")
    for row, index in zip(expected, range(60), strict=True):
        pixels = tf.io.decode_image(read(examples, index)).numpy()
        np.testing.assert_array_equal(pixels, row["image"].numpy())
        assert examples.labels[index] == row["label"].numpy()
        assert np.all(pixels[..., examples.labels[index]] == 255)


def test_keys_are_those_of_tfds():
    examples = load("tiny_colours").subset("train")
    config = tfds.ReadConfig(add_tfds_id=True, interleave_cycle_length=1)
    rows = tfds.builder("tiny_colours").as_dataset(split="train", read_config=config)
    assert [row["tfds_id"].numpy().decode() for row in rows] == examples.keys.tolist()


def test_missing_validation_split_is_taken_from_train():
    examples = load("tiny_train", validation_fraction=9)
    assert examples.subset("train").class_counts() == (17, 17, 17)
    assert examples.subset("validation").class_counts() == (3, 3, 3)
    assert len(load("tiny_train:1.0.0", limit_examples=6)) == 12


def test_index_beside_the_records_leaves_tfds_working(data_dir):
    load("tiny_train")
    folder = data_dir / "tiny_train" / "1.0.0"
    assert (folder / "index-train.npz").exists()
    assert tfds.builder("tiny_train").as_dataset(split="train").cardinality() == 60
    assert not remains(data_dir)


def test_lost_records_are_an_error(data_dir):
    load("tiny_train")
    file = next((data_dir / "tiny_train" / "1.0.0").glob("*.tfrecord*"))
    whole = file.read_bytes()
    first = next(iter(tf.data.TFRecordDataset(str(file)))).numpy()
    file.write_bytes(whole[: len(first) + 16])
    with pytest.raises(UserError, match="1 records where there should be 60"):
        load("tiny_train")
    file.unlink()
    with pytest.raises(UserError, match="can't be read"):
        load("tiny_train")


def test_other_formats_are_refused(data_dir):
    builder = tfds.builder("tiny_train")
    builder.info.set_file_format("array_record", override=True)
    with pytest.raises(UserError, match="stored as array_record; allowed: tfrecord"):
        tfds_source._list_split(builder, "train", 0, "image", "label")


def test_data_set_without_images_or_of_unknown_name_is_refused():
    with pytest.raises(UserError, match=r"no image with a class label .*text: Text"):
        load("tiny_texts")
    with pytest.raises(UserError, match="did you mean cats_vs_dogs"):
        load("cat_vs_dogs")
    with pytest.raises(UserError, match="did you mean solar_cells"):
        load("solar_cell")
    with pytest.raises(UserError, match="can't open 'tiny_train:7"):
        load("tiny_train:7.0.0")


def test_data_set_without_train_split_can_be_evaluated_on_only():
    with pytest.raises(UserError, match="no images to train on, only in test"):
        load("tiny_test")
    assert len(sources.load_split(DataSpec("tfds", "tiny_test"), "all")) == 5


def test_class_names_that_look_alike_are_refused():
    with pytest.raises(UserError, match=r"classes 'gr.xfcn' and 'gru.u0308n' look alike"):
        load("tiny_twins")


def test_failed_preparation_leaves_no_records(data_dir):
    with pytest.raises(UserError, match=r"could not be .*the archive is damaged.*--data_dir"):
        load("tiny_broken")
    assert [path.name for path in (data_dir / "tiny_broken").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("failure", "raised"),
    [(OSError(errno.ENOSPC, "full"), UserError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_unfinished_downloads_of_a_failed_preparation_are_removed(
    data_dir, monkeypatch, failure, raised
):
    earlier, unfinished = (data_dir / "downloads" / f"x.zip.tmp.{i}" for i in "ab")
    earlier.mkdir(parents=True)

    def download(*_, **__):
        unfinished.mkdir()
        (unfinished / "half").write_bytes(b"x")
        raise failure

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download)
    with pytest.raises(raised):
        load("tiny_train")
    assert list((data_dir / "downloads").iterdir()) == [earlier]


def test_failed_preparation_leaves_the_downloads_of_others(data_dir, monkeypatch):
    def download(*_, **__):
        (data_dir / "downloads" / "y.zip.tmp.c").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download)
    with FileLock(data_dir / ".downloads.lock") as other:
        other.acquire(shared=True)
        with pytest.raises(KeyboardInterrupt):
            load("tiny_train")
    assert (data_dir / "downloads" / "y.zip.tmp.c").exists()


def test_leftovers_of_a_killed_process_are_removed(data_dir):
    left = data_dir / "tiny_train" / "incomplete.ABCDEF_1.0.0"
    under_way, abandoned = (data_dir / "downloads" / f"x.zip.tmp.{i}" for i in "ab")
    for folder in (left, under_way, abandoned):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"x")
    for path in (abandoned / "half", abandoned):
        os.utime(path, (0, 0))
    assert len(load("tiny_train")) == 60
    assert not left.exists()
    assert not abandoned.exists()
    assert under_way.exists()


def test_concurrent_loads_prepare_once(data_dir):
    # A lock on a file parts threads as it parts processes: each has opened it for itself.
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(len, pool.map(load, ["tiny_slow"] * 3))) == [77] * 3
    assert sorted((data_dir / "count").read_text().split()) == ["test", "train", "validation"]
    assert not remains(data_dir)


def test_no_connection_ends_soon_and_leaves_nothing(data_dir, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(
        tfds_prepare.tfds.core.DatasetBuilder,
        "download_and_prepare",
        lambda *_, **__: pytest.fail("TFDS was asked to download"),
    )
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        load("cats_vs_dogs", validation_fraction=1000)
    assert time.monotonic() - began < 15
    message = str(caught.value)
    for part in ("cats_vs_dogs", "no connection to", "--data_dir", "solar_cells.flags"):
        assert part in message
    assert "\n" not in message
    assert not list(data_dir.iterdir())


@pytest.fixture
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("no_proxies")
def test_connections_are_tried_directly_or_through_the_proxy(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert tfds_prepare.find_problem([f"http://127.0.0.1:{port}/file"]) is None
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{port}")
        assert tfds_prepare.find_problem(["https://host.invalid/file"]) is None
    assert "127.0.0.1" in tfds_prepare.find_problem([f"http://127.0.0.1:{port}/file"])
    assert tfds_prepare.find_problem(None) is None


@pytest.mark.usefixtures("no_proxies")
def test_name_server_without_answer_ends_soon(monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(tfds_prepare, "_ALL_SECONDS", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(20) and [])
    problem = tfds_prepare.find_problem(["http://a.invalid/x", "http://b.invalid/y"])
    answer.set()
    assert problem == "no connection to a.invalid, b.invalid in 0.1 s"
