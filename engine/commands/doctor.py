"""Examines a data set before training: what is broken, duplicate, mislabelled or unusual."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.commands.shared_options import ProcessOptions
from engine.core.errors import UserError
from engine.core.files import write_output
from engine.core.options import option
from engine.core.recipe import DataSpec
from engine.runtime import tensorflow_setup

if TYPE_CHECKING:
    from pipelines.doctor.clean_manifest import CleanManifest
    from pipelines.doctor.examine import ExaminedDataset
    from pipelines.pixel_cache.ageing import StoredCache


@dataclasses.dataclass(frozen=True)
class DoctorOptions(ProcessOptions):
    """Which images are examined."""

    data: DataSpec
    write_manifest: Path | None = option(
        None, "CSV file to write with the images that are fit to train on"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.write_manifest and self.data.source == "tfds":
            raise UserError(
                "--write_manifest lists files, and the images of --dataset lie in record files; "
                "omit it"
            )
        if self.write_manifest and _same_file(Path(self.write_manifest), Path(self.data.location)):
            raise UserError(
                f"--write_manifest={self.write_manifest}: is the manifest that is read, which "
                "stays as it is; name another file"
            )


def diagnose(
    options: DoctorOptions, progress: Callable[[int, int], None] = lambda done, total: None
) -> ExaminedDataset:
    """Reads, decodes and compares every image once; writes and removes nothing.

    Args:
      progress: called now and then with the number of images done and of all.

    Raises:
      UserError: there is nothing to examine.
    """
    threads = tensorflow_setup.start_tensorflow(options.threads)

    from pipelines.doctor import examine

    return examine.examine(options.data, threads, progress)


def write_report(examined: ExaminedDataset, folder: Path) -> tuple[Path, Path]:
    """Writes report.html and report.json, and returns their paths.

    Raises:
      UserError: they can't be written.
    """
    from engine.report import doctor_page

    result, html, values = examined.summary, folder / "report.html", folder / "report.json"
    text = json.dumps(doctor_page.to_json(result), indent=2) + "\n"
    write_output(values, text.encode(), "out")
    write_output(html, doctor_page.page(result, examined.thumbnail).encode(), "out")
    return html, values


def write_manifest(examined: ExaminedDataset, path: Path) -> CleanManifest:
    """Writes the list of the images that are fit to train on.

    Raises:
      UserError: there can be none, or it can't be written.
    """
    from pipelines.doctor.clean_manifest import clean_manifest

    manifest = clean_manifest(examined, str(path))
    write_output(path, manifest.contents, "write_manifest")
    return manifest


def list_pixel_caches(folder: Path) -> list[StoredCache]:
    """Returns the caches of decoded images in a folder, the last used first."""
    from pipelines.pixel_cache import ageing

    return ageing.list_caches(folder)


def clear_pixel_caches(folder: Path) -> list[StoredCache]:
    """Removes them; returns those that stay, since a run uses them.

    Raises:
      UserError: the folder can't be written.
    """
    from pipelines.pixel_cache import ageing

    caches = ageing.list_caches(folder)
    try:
        return ageing.remove(folder, caches) if folder.is_dir() else []
    except OSError as error:
        raise UserError(
            f"--cache_dir={folder}: can't be cleared ({error.strerror}); get the right to write "
            "there, or name another folder"
        ) from None


def _same_file(one: Path, other: Path) -> bool:
    one, other = one.expanduser(), other.expanduser()
    return one.exists() and other.exists() and os.path.samefile(one, other)
