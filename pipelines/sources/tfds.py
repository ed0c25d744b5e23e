"""Any data set of TensorFlow Datasets that has an image and a label.

TFDS downloads and prepares; from then on only its record files are used, through an index
(`pipelines.sources.tfrecord_index`), so that one code path reads every source.
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
from pipelines.sources.examples import SPLITS, TRAIN, Examples, from_columns, join
from pipelines.sources.tfds_prepare import one_line, prepare
from pipelines.sources.validate import require_classes

# How data sets call their parts, the usual name first.
NAMES_OF_SPLITS = {
    "train": ("train",),
    "validation": ("validation", "val", "valid"),
    "test": ("test",),
}


def load_tfds(spec: DataSpec) -> Examples:
    """The examples of `name`, `name/config` or `name:version`, prepared where that is still to do.

    The parts are the data set's own. Examples without a label (-1) are left out.

    Raises:
      UserError: no such data set, no image or no label in it, files of another format, no
        connection to download it.
    """
    builder = find_builder(spec.location)
    image, label = find_features(builder)
    if not builder.is_prepared():
        prepare(builder)
        builder = find_builder(spec.location)  # another process may have made it meanwhile
    parts = [
        _part(builder, own, code, image, label)
        for code, split in enumerate(SPLITS)
        if (own := _own_name(builder, split))
    ]
    examples = join(parts) if parts else from_columns([], [], (), keys=[])
    require_classes(examples)
    if not np.any(examples.splits == TRAIN):
        raise UserError(
            f"data set {spec.location!r} has no train part, only {', '.join(builder.info.splits)}; "
            "use another, or write a manifest and give --manifest"
        )
    return examples


def find_builder(name: str) -> Any:
    """The TFDS builder of that name.

    Raises:
      UserError: TFDS knows no such name, config or version.
    """
    bare = name.split(":")[0].split("/")[0]
    if bare == "solar_cells":
        from pipelines.sources import solar_cells  # noqa: F401  (registers itself)
    # Asked for an unknown name, TFDS would look for it among the community's, on the network.
    known = [*tfds.list_builders(with_community_datasets=False), "solar_cells"]
    prepared = Path(tfds.core.constants.DATA_DIR).expanduser() / bare
    if bare not in known and not prepared.is_dir():
        near = difflib.get_close_matches(bare, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(
            f"TensorFlow Datasets has no {bare!r}{hint}; allowed: a name from "
            "https://www.tensorflow.org/datasets/catalog, with /config or :version if wished"
        )
    try:
        return tfds.builder(name)
    # What TFDS raises here ranges from AssertionError to ImportError; each has a message.
    except Exception as error:
        raise UserError(f"TensorFlow Datasets can't open {name!r}: {one_line(error)}") from None


def find_features(builder: Any) -> tuple[str, str]:
    """Names of the features with the image and the label.

    Raises:
      UserError: the data set has none such.
    """
    found = dict(builder.info.features.items())
    keys = builder.info.supervised_keys
    pairs = [keys] if keys and len(keys) == 2 else []
    for image, label in [*pairs, ("image", "label")]:
        if not (isinstance(image, str) and isinstance(label, str)):
            continue
        if isinstance(found.get(image), tfds.features.Image) and isinstance(
            found.get(label), tfds.features.ClassLabel
        ):
            return image, label
    raise UserError(
        f"data set {builder.info.full_name} has no image with a class label "
        f"(it has {', '.join(f'{k}: {type(v).__name__}' for k, v in found.items())}); use another"
    )


def _own_name(builder: Any, split: str) -> str | None:
    """How the data set calls a part, or None where it has none."""
    return next((name for name in NAMES_OF_SPLITS[split] if name in builder.info.splits), None)


def _part(builder: Any, split: str, code: int, image: str, label: str) -> Examples:
    """The examples of one of the data set's own parts."""
    kind = builder.info.file_format
    if kind is not None and kind.value != "tfrecord":
        raise UserError(
            f"data set {builder.info.full_name} is stored as {kind.value}; allowed: tfrecord; "
            "prepare it again with file_format='tfrecord'"
        )
    info = builder.info.splits[split]
    files = [os.fspath(path) for path in info.filepaths]
    cache = os.path.join(os.fspath(builder.data_dir), f"index-{split}.npz")
    records = tfrecord_index.index_records(files, image, label, cache)
    if info.num_examples and len(records) != info.num_examples:
        raise UserError(
            f"data set {builder.info.full_name}, {split}: {len(records)} records where there "
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
        splits=np.full(len(records), code, dtype=np.int8),
    )
