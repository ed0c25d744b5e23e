"""Finds the image files below a folder, by one rule for every program.

A file is an image by the ending of its name, or else by its first bytes. Names of formats that
can't be decoded count too, so that these files are reported and not missed. Links are followed.
Hidden files and those of file managers, archivers and network drives are passed over, as is what is
no image.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Sequence

from engine.core.text import counted, printable, shorten
from pipelines.sources.examples import PassedOver, open_regular

ENDINGS = frozenset(
    (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "bmp", "dib", "gif", "webp"),
        *("heic", "heif", "avif", "avifs", "tif", "tiff", "jp2", "j2k", "jpf", "jpx", "jxl"),
        *("psd", "ico", "svg"),
    )
)
# In lower case. Hidden names are passed over anyway.
_JUNK = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "lost+found"),
        *("$recycle.bin", "system volume information", "@recycle", "#recycle"),
    )
)
_BYTES = 16  # of a file that tell whether it is an image
# JPEG, PNG, GIF, WebP, and BMP with its four reserved bytes.
_IMAGE = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8|RIFF....WEBP|BM....\0\0\0\0", re.DOTALL)
_SHOWN_NAMES = 3  # of each reason

NO_IMAGE = "without an image's name or contents"
JUNK = "hidden or of the system"
SPECIAL = "other than regular files"
READ_ALREADY = "leading to a folder that is read already"


@dataclasses.dataclass
class FoundImages:
    """What a folder holds.

    Attributes:
      files: the images at any depth, sorted. A link to nothing and a file that can't be opened are
        among them, so that they are reported as broken.
      unreadable: an error for each folder that can't be listed.
      passed_over: what is not read.
    """

    files: list[str] = dataclasses.field(default_factory=list)
    unreadable: list[OSError] = dataclasses.field(default_factory=list)
    passed_over: list[PassedOver] = dataclasses.field(default_factory=list)


def find_images(folder: str) -> FoundImages:
    """Lists the images below a folder.

    Links are followed, but each real folder is entered once, and those above the folder never.
    """
    found, waiting = FoundImages(), [folder]
    parent = os.path.realpath(os.path.dirname(os.path.abspath(folder)))
    entered = {parent, *_folders_above(os.path.realpath(folder))}
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        if real in entered:
            found.passed_over.append(PassedOver(place, READ_ALREADY))
            continue
        entered.add(real)
        try:
            folders, others = list_folder(place, found.passed_over)
        except OSError as error:
            found.unreadable.append(error)
            continue
        waiting += reversed(folders)
        for entry in others:
            if reason := _reason_to_pass_over(entry):
                found.passed_over.append(PassedOver(entry.path, reason))
            else:
                found.files.append(entry.path)
    found.files.sort()
    return found


def list_folder(
    folder: str, passed_over: list[PassedOver]
) -> tuple[list[str], list[os.DirEntry[str]]]:
    """Returns the folders directly in a folder, sorted, and what else it holds; opens nothing.

    Args:
      passed_over: receives what is hidden or of the system.

    Raises:
      OSError: it can't be listed.
    """
    folders, others = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in _JUNK:
                passed_over.append(PassedOver(entry.path, JUNK))
            elif _is_folder(entry):
                folders.append(entry.path)
            else:
                others.append(entry)
    return sorted(folders), others


def has_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image without being opened."""
    return name.rpartition(".")[2].lower() in ENDINGS


def describe_passed_over(passed_over: Sequence[PassedOver]) -> str:
    """Returns `passed over 12 files or folders: 8 without … (.txt 6, .json 2), …`, '' for none."""
    if not passed_over:
        return ""
    parts = []
    for reason, count in Counter(sorted(one.reason for one in passed_over)).most_common():
        those = sorted(_kind(one) for one in passed_over if one.reason == reason)
        kinds = Counter(those).most_common()
        shown = [f"{shorten(printable(kind), 40)} {n:,}" for kind, n in kinds[:_SHOWN_NAMES]]
        more = ["…"] if len(kinds) > _SHOWN_NAMES else []
        parts.append(f"{count:,} {reason} ({', '.join(shown + more)})")
    all_of_them = counted(len(passed_over), "file or folder", "files or folders")
    return f"passed over {all_of_them}: {', '.join(parts)}"


def _kind(passed: PassedOver) -> str:
    """What it has in common with others of its reason: `.txt`, or its name."""
    name = os.path.basename(passed.path)
    return (os.path.splitext(name)[1].lower() or "no ending") if passed.reason == NO_IMAGE else name


def _reason_to_pass_over(entry: os.DirEntry[str]) -> str | None:
    """Returns why something that is no folder isn't read, None for an image."""
    if not _is_file(entry):
        return SPECIAL
    return None if has_image_name(entry.name) or _may_be_image(entry.path) else NO_IMAGE


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A folder or a link to one; a link that leads to itself is none."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A regular file, or a link that leads to one, to nothing or to itself."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def _may_be_image(path: str) -> bool:
    """Whether a file begins as an image does, or can't be opened."""
    try:
        with open_regular(path) as file:
            return _IMAGE.match(file.read(_BYTES)) is not None
    except OSError:
        return True


def _folders_above(path: str) -> list[str]:
    above = os.path.dirname(path)
    return [] if above == path else [above, *_folders_above(above)]
