"""What can be wrong with pictures: every kind of finding, how grave it is, and what helps."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from pipelines.formats import PIXEL_LIMIT

ERROR, WARNING, NOTE = LEVELS = ("error", "warning", "note")


class Kind(NamedTuple):
    """level: one of `LEVELS`. title: what the pictures have in common. advice: what to do next."""

    level: str
    title: str
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


# From the gravest to what is only worth knowing; reports keep this order.
KINDS = {
    "refused": Kind(ERROR, "training would refuse this data", "do as the message says"),
    "unreadable": Kind(
        ERROR, "can't be opened", "give yourself the right to read them, or mend the links"
    ),
    "empty": Kind(ERROR, "empty files", "copy them again, or remove them"),
    "no_picture": Kind(
        ERROR, "hold no picture that is read here", "save them as JPEG or PNG, or move them away"
    ),
    "bomb": Kind(
        ERROR,
        f"claim more than {PIXEL_LIMIT:,} pixels",
        "make sure that they come from where you think, and shrink them",
    ),
    "damaged": Kind(
        ERROR, "damaged, cut short, or of a kind that decodes wrongly", "save or copy them anew"
    ),
    "copies_across_parts": Kind(
        ERROR,
        "the same file in training and in what it is measured on",
        "remove one of them: figures come out too good",
    ),
    "copies_of_other_label": Kind(
        ERROR, "the same file under different labels", "decide which label is right"
    ),
    "likeness_across_parts": Kind(
        WARNING,
        "nearly the same picture in training and in what it is measured on",
        "look at them; what belongs together goes into one part, as by a manifest's column group",
    ),
    "likeness_of_other_label": Kind(
        WARNING, "nearly the same picture under different labels", "look at them"
    ),
    "one_colour": Kind(WARNING, "of one colour throughout", "look at them: is it all there?"),
    "huge": Kind(WARNING, "so large that they are slow to decode", "shrink them beforehand"),
    "tiny": Kind(WARNING, "so small that there is little to see", "find larger ones"),
    "narrow": Kind(
        WARNING, "far longer than wide, or wider than long", "cut them, or choose --resize=pad"
    ),
    "imbalance": Kind(
        WARNING,
        "some classes have far more pictures than others",
        "add pictures, or choose --class_weights=balanced",
    ),
    "link_outside": Kind(
        WARNING, "links that lead out of the folder", "make sure that they are meant"
    ),
    "link_circle": Kind(WARNING, "links that lead in a circle", "remove them"),
    "copies": Kind(NOTE, "the same file more than once", "one of each is enough"),
    "likeness": Kind(NOTE, "nearly the same picture more than once", "look at them"),
    "wrong_name": Kind(NOTE, "named as another format", "nothing: contents count, not names"),
    "several_frames": Kind(NOTE, "animated or of several pages", "only the first is read"),
    "turned": Kind(NOTE, "turned by EXIF", "nothing: they are read upright"),
    "odd_name": Kind(NOTE, "names that are not UTF-8", "rename them: other programs may stumble"),
    "stray": Kind(NOTE, "beside the class folders, and not read", "move them into a class"),
}
