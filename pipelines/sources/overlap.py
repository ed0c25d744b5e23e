"""Which of the images that a run is measured on it was trained on, and knows the answers of."""

from __future__ import annotations

import os

import numpy as np

from engine.core.errors import UserError
from engine.core.recipe import DataSpec
from pipelines.sources import sources
from pipelines.sources.duplicates import first_of_same_content
from pipelines.sources.examples import WHOLE_FILE, Examples


def find_trained_on(trained: DataSpec, measured: DataSpec, examples: Examples) -> np.ndarray:
    """bool [N]: by their bytes, so that copies count; inside of record files by their places.

    None are where the images that the run was trained on are not there any more.

    Args:
      trained: the run's own data.
      measured: the data that the N examples are of.
    """
    none = np.zeros(len(examples), bool)
    if trained.source == "tfds" and measured.location != trained.location:
        return none  # it may still have to be downloaded, and nothing else lies in its files
    try:
        known = sources.load_examples(trained).subset("train")
    except UserError:
        return none
    if np.all(known.lengths == WHOLE_FILE) and np.all(examples.lengths == WHOLE_FILE):
        apart = np.repeat([0, 1], [len(known), len(examples)])
        first = first_of_same_content(np.concatenate([known.paths, examples.paths]), apart)
        return first[len(known) :] < len(known)
    names = {file_identity(known, index) for index in range(len(known))}
    return np.array(
        [file_identity(examples, index) in names for index in range(len(examples))], bool
    )


def file_identity(examples: Examples, index: int) -> str:
    """An image's name that is the same by whatever way it was reached, and no other's.

    Links are followed, so that a folder of links to images holds those images. A copy is
    another image.
    """
    inside = "" if examples.lengths[index] == WHOLE_FILE else f"@{examples.offsets[index]}"
    return os.path.realpath(examples.paths[index]) + inside
