"""Writes a data set as class folders, for programs that read nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.sources.examples import WHOLE_FILE, Examples, read


def write_class_folders(examples: Examples, folder: Path) -> None:
    """Writes `folder/<class number>/<number>.<suffix>`: links to files, or bytes from records.

    The suffix of a record is always `jpg`: decoders look at the content. Every class has a folder,
    since readers number the classes by their folders.
    """
    for label in range(len(examples.classes)):
        (folder / f"{label:05d}").mkdir(parents=True)
    for number, (path, label) in enumerate(zip(examples.paths, examples.labels, strict=True)):
        place = folder / f"{label:05d}"
        if examples.lengths[number] == WHOLE_FILE:
            suffix = os.path.splitext(path)[1]
            os.symlink(os.path.abspath(path), place / f"{number:07d}{suffix}")
        else:
            (place / f"{number:07d}.jpg").write_bytes(read(examples, number))
