"""Every kind of finding, its level and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine.core.findings import ERROR, NOTE, WARNING, Case, Finding, FindingKind
from pipelines.decode.formats import PIXEL_LIMIT

# From the most to the least severe; reports keep this order.
_ALL = (
    FindingKind("refused", ERROR, "", "training refuses this data", "do as the message says"),
    FindingKind("missing", ERROR, "path", "without a file", "correct the manifest or the links"),
    FindingKind("unreadable", ERROR, "file", "that can't be opened", "change the permissions"),
    FindingKind("empty", ERROR, "file", "without contents", "copy again or remove"),
    FindingKind("no_image", ERROR, "file", "without a supported image", "save as JPEG or PNG"),
    FindingKind(
        "bomb",
        ERROR,
        "file",
        f"claiming more than {PIXEL_LIMIT:,} pixels",
        "make sure that it comes from where you think, and shrink it",
    ),
    FindingKind("damaged", ERROR, "file", "damaged or truncated", "save or copy again"),
    FindingKind(
        "duplicates_across_splits",
        ERROR,
        "file",
        "in training and in validation or test",
        "remove one copy: the accuracy comes out too high",
    ),
    FindingKind(
        "duplicates_of_other_label",
        ERROR,
        "file",
        "under different labels",
        "decide which label is right",
    ),
    FindingKind(
        "near_duplicates_across_splits",
        WARNING,
        "group",
        "of near-duplicates in training and in validation or test",
        "look at them; keep them in one split, as with a manifest's column group",
    ),
    FindingKind(
        "near_duplicates_of_other_label",
        WARNING,
        "group",
        "of near-duplicates under different labels",
        "look at them",
    ),
    FindingKind("one_colour", WARNING, "image", "of one colour", "check that it is complete"),
    FindingKind("huge", WARNING, "image", "so large that decoding is slow", "shrink beforehand"),
    FindingKind("tiny", WARNING, "image", "with little to see, so small", "find larger ones"),
    FindingKind(
        "narrow", WARNING, "image", "of extreme aspect ratio", "crop, or choose --resize=pad"
    ),
    FindingKind(
        "imbalance",
        WARNING,
        "",
        "some classes have far more images than others",
        "add images, or choose --class_weights=balanced",
    ),
    FindingKind(
        "link_outside", WARNING, "link", "to outside of the folder", "make sure that this is meant"
    ),
    FindingKind("link_circle", WARNING, "link", "in a circle", "remove the link"),
    FindingKind("duplicates", NOTE, "file", "with further copies", "one of each is enough"),
    FindingKind("near_duplicates", NOTE, "group", "of near-duplicates", "look at them"),
    FindingKind(
        "wrong_name", NOTE, "image", "named as another format", "nothing: contents count, not names"
    ),
    FindingKind(
        "several_frames",
        NOTE,
        "image",
        "with several frames or pages",
        "nothing: the first frame is read",
    ),
    FindingKind("turned", NOTE, "image", "rotated by EXIF", "nothing: it is read upright"),
    FindingKind("odd_name", NOTE, "name", "not in UTF-8", "rename: other programs may fail"),
    FindingKind("stray", NOTE, "image", "beside the class folders", "move into a class folder"),
)
KINDS = {kind.name: kind for kind in _ALL}


def collect(cases: Mapping[str, Iterable[Case]]) -> list[Finding]:
    """Returns a finding for each kind, by name, that has cases."""
    found = {name: tuple(of_kind) for name, of_kind in cases.items()}
    return [Finding(KINDS[name], of_kind) for name, of_kind in found.items() if of_kind]


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    order = list(KINDS)
    return sorted(findings, key=lambda finding: order.index(finding.name))
