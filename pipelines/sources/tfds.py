"""Data sets of TensorFlow Datasets that have an image and a label.

TFDS downloads and prepares; then its record files are read through an index
(`pipelines.sources.tfrecord_index`), as every other source.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from engine.core.errors import UserError
from engine.core.recipe import DataSpec
from pipelines.sources import tfrecord_index
from pipelines.sources.examples import SPLIT_NAMES, Examples, from_columns, join
from pipelines.sources.tfds_prepare import one_line, prepare


def load_tfds(spec: DataSpec) -> Examples:
    """Lists the examples of `name`, `name/config` or `name:version`, prepared if need be.

    The splits are the data set's own. Examples without a label (-1) are omitted.

    Raises:
      UserError: no such data set, no image or label in it, files of another format, or no
        connection to download it.
    """
    builder = find_builder(spec.location)
    image, label = find_features(builder)
    if not builder.is_prepared():
        prepare(builder)
        builder = find_builder(spec.location)  # the old one doesn't know the files
    names = [name for name in SPLIT_NAMES if name in builder.info.splits]
    first = {SPLIT_NAMES[name]: name for name in reversed(names)}
    splits = [_list_split(builder, first[split], split, image, label) for split in sorted(first)]
    if not splits:
        raise UserError(
            f"data set {spec.location!r} has the splits {', '.join(builder.info.splits)}; allowed: "
            f"{', '.join(SPLIT_NAMES)}; use another, or write a manifest and give --manifest"
        )
    return join(splits)


def find_builder(name: str) -> Any:
    """Returns the TFDS builder of that name.

    Raises:
      UserError: TFDS knows no such name, config or version.
    """
    bare = name.split(":")[0].split("/")[0]
    if bare == "solar_cells":
        from pipelines.sources import solar_cells  # noqa: F401  (registers itself)
    # TFDS would look for an unknown name among community data sets, on the network.
    known = [*tfds.list_builders(with_community_datasets=False), "solar_cells"]
    prepared = Path(tfds.core.constants.DATA_DIR).expanduser() / bare
    if bare not in known and not prepared.is_dir():
        near = difflib.get_close_matches(bare, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(
            f"TensorFlow Datasets has no {bare!r}{hint}; allowed: a name from "
            "https://www.tensorflow.org/datasets/catalog, optionally with /config or :version"
        )
    try:
        return tfds.builder(name)
    # TFDS raises anything from AssertionError to ImportError, with a message.
    except Exception as error:
        raise UserError(f"TensorFlow Datasets can't open {name!r}: {one_line(error)}") from None


def find_features(builder: Any) -> tuple[str, str]:
    """Returns the names of the features with the image and the label.

    Raises:
      UserError: the data set has no such features.
    """
    present = dict(builder.info.features.items())
    keys = builder.info.supervised_keys
    pairs = [keys] if keys and len(keys) == 2 else []
    for image, label in [*pairs, ("image", "label")]:
        if not (isinstance(image, str) and isinstance(label, str)):
            continue
        if isinstance(present.get(image), tfds.features.Image) and isinstance(
            present.get(label), tfds.features.ClassLabel
        ):
            return image, label
    raise UserError(
        f"data set {builder.info.full_name} has no image with a class label "
        f"(it has {', '.join(f'{k}: {type(v).__name__}' for k, v in present.items())}); use another"
    )


def _list_split(builder: Any, name: str, split: int, image: str, label: str) -> Examples:
    """Lists the examples of a split that the data set calls `name`."""
    kind = builder.info.file_format
    if kind is not None and kind.value != "tfrecord":
        raise UserError(
            f"data set {builder.info.full_name} is stored as {kind.value}; allowed: tfrecord; "
            "prepare it again with file_format='tfrecord'"
        )
    info = builder.info.splits[name]
    files = [os.fspath(path) for path in info.filepaths]
    cache = os.path.join(os.fspath(builder.data_dir), f"index-{name}.npz")
    records = tfrecord_index.index_records(files, image, label, cache)
    if info.num_examples and len(records) != info.num_examples:
        raise UserError(
            f"data set {builder.info.full_name}, {name}: {len(records)} records where there "
            f"should be {info.num_examples}; remove {builder.data_dir} and prepare it again"
        )
    classes = tuple(builder.info.features[label].names)
    records = records[(records["label"] >= 0) & (records["label"] < len(classes))]
    names = [os.path.basename(file) for file in files]
    return from_columns(
        [files[file] for file in records["file"]],
        records["label"],
        classes,
        # As TFDS itself names an example (`tfds_id`): it doesn't change while the version stays.
        keys=[f"{names[file]}__{number}" for file, number in records[["file", "number"]].tolist()],
        offsets=records["offset"],
        lengths=records["length"],
        splits=np.full(len(records), split, dtype=np.int8),
    )
