"""The solar cells: counts from the package's own table, bytes from its own files."""

import importlib.util
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from engine.core.recipe import DataSpec
from pipelines.sources import solar_cells, sources
from pipelines.sources.examples import read


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds.core.constants, "DATA_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def rows():
    """NumPy's reading of the table: file, probability, kind."""
    folder = Path(importlib.util.find_spec("elpv_dataset").origin).parent / "data"
    table = np.genfromtxt(folder / "labels.csv", dtype=["U32", "f8", "U8"])
    return folder, table


def load(**options):
    return sources.load_examples(DataSpec("tfds", "solar_cells", **options))


def test_counts_are_those_of_the_table(data_dir, rows):
    _, table = rows
    began = time.monotonic()
    examples = load()
    assert time.monotonic() - began < 60
    defective = int(np.sum(table["f1"] >= 0.5))
    assert (len(table) - defective, defective) == (1803, 821)
    assert examples.classes == ("functional", "defective")
    assert examples.class_counts() == (1803, 821)
    assert len(examples.subset("test")) == 655  # a quarter of each of four strata, rounded
    assert len(examples) == 2624


def test_examples_are_the_images_of_the_package_with_their_labels(data_dir, rows):
    folder, table = rows
    examples = load()
    wanted = Counter(((folder / row["f0"]).read_bytes(), int(row["f1"] >= 0.5)) for row in table)
    stored = [read(examples, index) for index in range(len(examples))]
    assert Counter(zip(stored, examples.labels.tolist(), strict=True)) == wanted


def test_train_and_test_are_stratified_and_fixed(rows):
    folder, _ = rows
    cells = solar_cells.read_table(folder / "labels.csv")
    train, test = solar_cells.split_cells(cells)
    assert not set(train) & set(test)
    whole, part = (Counter((cell.label, cell.kind) for cell in some) for some in (cells, train))
    assert len(whole) == 4
    for stratum, count in whole.items():
        assert abs(part[stratum] - 0.75 * count) <= 0.5
    assert solar_cells.split_cells(cells[::-1]) == (train, test)


def test_split_seed_moves_validation_and_never_the_test_split(data_dir):
    one, other = load(split_seed=0), load(split_seed=1)
    assert set(one.subset("test").keys) == set(other.subset("test").keys)
    assert set(one.subset("validation").keys) != set(other.subset("validation").keys)
    assert one.subset("validation").class_counts() == other.subset("validation").class_counts()
    functional, defective = one.subset("validation").class_counts()
    assert (functional, defective) == (271, 123)  # a fifth of 1,353 and of 616


def test_second_load_prepares_nothing(data_dir, monkeypatch):
    load()
    monkeypatch.setattr(
        solar_cells.SolarCells, "download_and_prepare", lambda *_, **__: pytest.fail("again")
    )
    assert len(load(limit_examples=20)) == 60
