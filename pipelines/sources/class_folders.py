"""A data set as folders of class folders, for programs that know no other."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.sources.examples import WHOLE_FILE, Examples, read


def write_class_folders(examples: Examples, folder: Path) -> None:
    """`folder/<class number>/<number>.<ending>`: links to files, copies of what is in records."""
    for number, (path, label, length) in enumerate(
        zip(examples.paths, examples.labels, examples.lengths, strict=True)
    ):
        place = folder / f"{label:05d}"
        place.mkdir(parents=True, exist_ok=True)
        if length == WHOLE_FILE:
            ending = os.path.splitext(path)[1]
            os.symlink(os.path.abspath(path), place / f"{number:07d}{ending}")
        else:
            contents = read(examples, number)
            (place / f"{number:07d}{_ending(contents)}").write_bytes(contents)


def _ending(contents: bytes) -> str:
    known = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"GI": ".gif", b"BM": ".bmp"}
    return known.get(contents[:2], ".jpg")
