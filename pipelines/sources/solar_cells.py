"""A TFDS data set of the images in the package `elpv-dataset`: functional and defective cells.

2,624 electroluminescence images of cells from 44 photovoltaic modules, 300 x 300 pixels, grey
(Buerhop-Lutz et al. 2018, Deitsch et al. 2019). The images are licensed CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from engine.core.errors import UserError

CLASSES = ("functional", "defective")
KINDS = ("mono", "poly")
THRESHOLD = 0.5  # a cell is defective from this probability on
TRAIN_FRACTION = 0.75

_CITATION = """@article{deitsch2019,
  author = {Deitsch, Sergiu and Christlein, Vincent and Berger, Stephan and Buerhop-Lutz, Claudia
    and Maier, Andreas and Gallwitz, Florian and Riess, Christian},
  title = {Automatic classification of defective photovoltaic module cells in
    electroluminescence images},
  journal = {Solar Energy}, volume = {185}, pages = {455--468}, year = {2019}}"""


class Cell(NamedTuple):
    """A row of the package's table: a file, its probability of a defect (0 to 1), its kind."""

    file: str
    probability: float
    kind: str

    @property
    def label(self) -> str:
        return CLASSES[self.probability >= THRESHOLD]


class SolarCells(tfds.core.GeneratorBasedBuilder):
    """Functional against defective solar cells; three quarters train, one quarter test."""

    name = "solar_cells"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}  # noqa: RUF012  (TFDS reads it so)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            homepage="https://github.com/zae-bayern/elpv-dataset",
            citation=_CITATION,
            license="CC BY-NC-SA 4.0",
            supervised_keys=("image", "label"),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(300, 300, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=CLASSES),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        folder = package_folder()
        train, test = split_cells(read_table(folder / "labels.csv"))
        return {
            "train": self._generate_examples(folder, train),
            "test": self._generate_examples(folder, test),
        }

    def _generate_examples(self, folder: Path, cells: list[Cell]) -> Iterator[tuple[str, dict]]:
        for cell in cells:
            # A path: TFDS stores the file's bytes as they are.
            yield cell.file, {"image": folder / cell.file, "label": cell.label}


def package_folder() -> Path:
    """Returns the installed package's folder of table and images, without importing it.

    Raises:
      UserError: it is not installed.
    """
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise UserError("solar_cells needs the package elpv-dataset; pip install elpv-dataset")
    return Path(spec.origin).parent / "data"


def read_table(file: Path) -> list[Cell]:
    """Reads rows of `file, probability, kind`, separated by blanks, in their order."""
    rows = (line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    return [Cell(name, float(probability), kind) for name, probability, kind in rows]


def split_cells(cells: list[Cell]) -> tuple[list[Cell], list[Cell]]:
    """Returns (train, test), three quarters and one quarter of each label of each kind.

    By a hash of the file's name, not by `split_seed`: the test split is the same for all.
    """
    train: list[Cell] = []
    test: list[Cell] = []
    for label in CLASSES:
        for kind in KINDS:
            stratum = [cell for cell in cells if (cell.label, cell.kind) == (label, kind)]
            stratum.sort(key=lambda cell: hashlib.blake2b(cell.file.encode()).digest())
            border = round(len(stratum) * TRAIN_FRACTION)
            train += stratum[:border]
            test += stratum[border:]
    return sorted(train), sorted(test)
