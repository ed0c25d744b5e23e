"""Finds evaluated images that a run was trained on."""

from __future__ import annotations

import os

import numpy as np

from engine.core.errors import UserError
from engine.core.recipe import DataSpec
from pipelines.sources import sources
from pipelines.sources.examples import WHOLE_FILE, Examples
from pipelines.sources.identical_files import first_identical_file


def find_trained_on(trained: DataSpec, measured: DataSpec, examples: Examples) -> np.ndarray:
    """Returns bool [N]: by their bytes, so that copies count; in record files by their offsets.

    All False where the training images no longer exist.

    Args:
      trained: the run's own data.
      measured: the data of the N examples.
    """
    none = np.zeros(len(examples), bool)
    if trained.source == "tfds" and measured.location != trained.location:
        return none  # it may have to be downloaded, and its files contain nothing else
    try:
        known = sources.load_split(trained, "train")
    except UserError:
        return none
    if np.all(known.lengths == WHOLE_FILE) and np.all(examples.lengths == WHOLE_FILE):
        apart = np.repeat([0, 1], [len(known), len(examples)])
        first = first_identical_file(np.concatenate([known.paths, examples.paths]), apart)
        return first[len(known) :] < len(known)
    names = {file_identity(known, index) for index in range(len(known))}
    return np.array(
        [file_identity(examples, index) in names for index in range(len(examples))], bool
    )


def file_identity(examples: Examples, index: int) -> str:
    """Returns a name of an image that is the same through any link, and no other image's."""
    inside = "" if examples.lengths[index] == WHOLE_FILE else f"@{examples.offsets[index]}"
    return os.path.realpath(examples.paths[index]) + inside
