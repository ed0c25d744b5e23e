"""What can be wrong with images: every kind of finding, how grave it is, and what helps."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from engine.core.text import counted
from pipelines.decode.formats import PIXEL_LIMIT

ERROR, WARNING, NOTE = LEVELS = ("error", "warning", "note")


class Kind(NamedTuple):
    """A way in which images can be wrong.

    level: one of `LEVELS`. title: what is found, in the plural, to stand after a number. one: the
    same of a single case; None where cases are not counted. advice: what to do next.
    """

    level: str
    title: str
    one: str | None
    advice: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """One case: the places it is about, what is to be said of it, and its examples, if any.

    examples: indices of `Examples`, as many as there are places, or none where places are no
      examples.
    """

    places: tuple[str, ...]
    detail: str = ""
    examples: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Finding:
    """All cases of one kind, at least one."""

    name: str
    entries: tuple[Entry, ...]

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]

    @property
    def counted(self) -> str:
        """What was found, after its number: `1 empty file`."""
        _, title, one, _ = self.kind
        return title if one is None else counted(len(self.entries), one, title)


# From the gravest to what is only worth knowing; reports keep this order.
KINDS = {
    "refused": Kind(ERROR, "training would refuse this data", None, "do as the message says"),
    "missing": Kind(
        ERROR,
        "files that do not exist",
        "file that does not exist",
        "correct the paths, which a manifest counts from its own folder, or the links",
    ),
    "unreadable": Kind(
        ERROR,
        "files that can't be opened",
        "file that can't be opened",
        "give yourself the right to read what is there, or mend the links",
    ),
    "empty": Kind(ERROR, "empty files", "empty file", "copy anew, or remove"),
    "no_image": Kind(
        ERROR,
        "files that hold no image that is read here",
        "file that holds no image that is read here",
        "save as JPEG or PNG, or move away",
    ),
    "bomb": Kind(
        ERROR,
        f"files that claim more than {PIXEL_LIMIT:,} pixels",
        f"file that claims more than {PIXEL_LIMIT:,} pixels",
        "make sure that it comes from where you think, and shrink it",
    ),
    "damaged": Kind(
        ERROR,
        "files damaged, cut short, or of a kind that decodes wrongly",
        "file damaged, cut short, or of a kind that decodes wrongly",
        "save or copy anew",
    ),
    "copies_across_parts": Kind(
        ERROR,
        "files that are in training and in what it is measured on",
        "file that is in training and in what it is measured on",
        "remove one copy: figures come out too good",
    ),
    "copies_of_other_label": Kind(
        ERROR,
        "files that are there under different labels",
        "file that is there under different labels",
        "decide which label is right",
    ),
    "likeness_across_parts": Kind(
        WARNING,
        "groups of nearly the same image in training and in what it is measured on",
        "group of nearly the same image in training and in what it is measured on",
        "look at them; what belongs together goes into one part, as by a manifest's column group",
    ),
    "likeness_of_other_label": Kind(
        WARNING,
        "groups of nearly the same image under different labels",
        "group of nearly the same image under different labels",
        "look at them",
    ),
    "one_colour": Kind(
        WARNING,
        "images of one colour throughout",
        "image of one colour throughout",
        "look whether it is all there",
    ),
    "huge": Kind(
        WARNING,
        "images so large that they are slow to decode",
        "image so large that it is slow to decode",
        "shrink beforehand",
    ),
    "tiny": Kind(
        WARNING,
        "images so small that there is little to see",
        "image so small that there is little to see",
        "find larger ones",
    ),
    "narrow": Kind(
        WARNING,
        "images far longer than wide, or wider than long",
        "image far longer than wide, or wider than long",
        "cut it to shape, or choose --resize=pad",
    ),
    "imbalance": Kind(
        WARNING,
        "some classes have far more images than others",
        None,
        "add images, or choose --class_weights=balanced",
    ),
    "link_outside": Kind(
        WARNING,
        "links that lead out of the folder",
        "link that leads out of the folder",
        "make sure that this is meant",
    ),
    "link_circle": Kind(
        WARNING, "links that lead in a circle", "link that leads in a circle", "remove what circles"
    ),
    "copies": Kind(
        NOTE,
        "files that are there more than once",
        "file that is there more than once",
        "one of each is enough",
    ),
    "likeness": Kind(
        NOTE,
        "groups of nearly the same image",
        "group of nearly the same image",
        "look at them",
    ),
    "wrong_name": Kind(
        NOTE,
        "images named as another format",
        "image named as another format",
        "nothing: contents count, not names",
    ),
    "several_frames": Kind(
        NOTE,
        "images with motion or several pages",
        "image with motion or several pages",
        "only the first frame is read",
    ),
    "turned": Kind(
        NOTE, "images turned by EXIF", "image turned by EXIF", "nothing: it is read upright"
    ),
    "odd_name": Kind(
        NOTE,
        "names that are not UTF-8",
        "name that is not UTF-8",
        "rename: other programs may stumble",
    ),
    "stray": Kind(
        NOTE,
        "images beside the class folders, and not read",
        "image beside the class folders, and not read",
        "move into a class",
    ),
}
