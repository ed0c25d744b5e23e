"""Writes a data set as class folders, for programs that read nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.sources.examples import WHOLE_FILE, Examples, read


def write_class_folders(examples: Examples, folder: Path) -> None:
    """Writes `folder/<class number>/<number>.<suffix>`: links to files, or bytes from records."""
    for number, (path, label, length) in enumerate(
        zip(examples.paths, examples.labels, examples.lengths, strict=True)
    ):
        place = folder / f"{label:05d}"
        place.mkdir(parents=True, exist_ok=True)
        if length == WHOLE_FILE:
            suffix = os.path.splitext(path)[1]
            os.symlink(os.path.abspath(path), place / f"{number:07d}{suffix}")
        else:
            contents = read(examples, number)
            (place / f"{number:07d}{_suffix(contents)}").write_bytes(contents)


def _suffix(contents: bytes) -> str:
    known = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"GI": ".gif", b"BM": ".bmp"}
    return known.get(contents[:2], ".jpg")
