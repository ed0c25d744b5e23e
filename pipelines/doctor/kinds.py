"""Every kind of finding, its level and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine.core.findings import ERROR, NOTE, WARNING, Case, Finding, FindingKind
from pipelines.decode.bounds import TOO_LARGE

# From the most to the least severe; reports keep this order. Of each: name, noun, problem, advice.
_LEVELS = {
    ERROR: (
        ("refused", "", "training refuses this data", "do as the message says"),
        ("missing", "path", "without a file", "correct the manifest or the links"),
        ("unreadable", "file", "that can't be opened", "change the permissions"),
        ("empty", "file", "without contents", "copy again or remove"),
        ("no_image", "file", "without a supported image", "save as JPEG or PNG"),
        ("bomb", "file", f"claiming {TOO_LARGE}", "make sure where it comes from, and shrink it"),
        ("damaged", "file", "damaged or truncated", "save or copy again"),
        (
            *("duplicates_across_splits", "file", "in training and in validation or test"),
            "remove one copy: the accuracy comes out too high",
        ),
        (
            *("duplicates_of_other_label", "file", "under different labels"),
            "decide which label is right",
        ),
    ),
    WARNING: (
        (
            *("near_duplicates_across_splits", "group"),
            "of near-duplicates in training and in validation or test",
            "look at them; keep them in one split, as with a manifest's column group",
        ),
        (
            *("near_duplicates_of_other_label", "group"),
            *("of near-duplicates under different labels", "look at them"),
        ),
        ("one_colour", "image", "of one colour", "check that it is complete"),
        (
            *("shallow", "PNG", "of 16 bits that uses few of its levels, and is read nearly black"),
            "multiply its levels until they fill 16 bits: 12-bit ones by 16",
        ),
        ("huge", "image", "so large that decoding is slow", "shrink beforehand"),
        ("tiny", "image", "with little to see, so small", "find larger ones"),
        ("narrow", "image", "of extreme aspect ratio", "crop, or choose --resize=pad"),
        (
            *("imbalance", "", "some classes have far more images than others"),
            "add images, or choose --class_weights=balanced",
        ),
        (
            *("nested", "folder", "inside class folders"),
            "make sure that the folders around them are the classes",
        ),
        (
            *("unread_column", "column", "that isn't read but looks like a split or a group"),
            "rename it, if it is one",
        ),
        ("link_outside", "link", "to outside of the folder", "make sure that this is meant"),
        ("link_circle", "link", "in a circle", "remove the link"),
    ),
    NOTE: (
        (
            *("missing_class", "class name", "without images in a split"),
            "add some, or leave their recall there unmeasured",
        ),
        ("duplicates", "file", "with further copies", "one of each is enough"),
        ("near_duplicates", "group", "of near-duplicates", "look at them"),
        ("wrong_name", "image", "named as another format", "nothing: contents count, not names"),
        (
            *("several_frames", "image", "with several frames or pages"),
            "nothing: the first frame is read",
        ),
        ("turned", "image", "rotated by EXIF", "nothing: it is read upright"),
        ("odd_name", "name", "not in UTF-8", "rename: other programs may fail"),
        (
            *("passed_over", "", "files and folders that are not read"),
            "nothing, unless one is an image: save it as JPEG or PNG",
        ),
        ("stray", "image", "beside the class folders", "move into a class folder"),
    ),
}
KINDS = {
    name: FindingKind(name, level, *texts)
    for level, kinds in _LEVELS.items()
    for name, *texts in kinds
}


def collect(cases: Mapping[str, Iterable[Case]]) -> list[Finding]:
    """Returns a finding for each kind, by name, that has cases."""
    listed = {name: tuple(of_kind) for name, of_kind in cases.items()}
    return [Finding(KINDS[name], of_kind) for name, of_kind in listed.items() if of_kind]


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: list(KINDS).index(finding.name))
