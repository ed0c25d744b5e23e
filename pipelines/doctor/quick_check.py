"""The checks that cost little: of headers, colours, classes and paths; as lines before a run."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from engine.core.findings import NOTE, WARNING, Case, Finding
from engine.core.recipe import DataSpec
from engine.core.text import printable, program
from pipelines.decode import headers
from pipelines.doctor import duplicates, kinds
from pipelines.pixel_cache.cache import PixelCache
from pipelines.pixel_cache.index import FACTS
from pipelines.sources import manifest, sources
from pipelines.sources.examples import Examples, read
from pipelines.sources.find_images import has_image_name

HUGE_PIXELS = 50_000_000
TINY_SIDE = 32  # pixels
NARROW = 5.0  # times as long as wide
ONE_COLOUR_LEVELS = 3  # of 255: the difference that saving as JPEG makes
IMBALANCE = 10.0  # times as many images
SHOWN_CLASSES = 10
DARK_LEVEL = 31  # of 255: an eighth of the range
_DEEP_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # then width, height, bits
_PROBES = 8  # pixels along each side that are tested before the whole image


def quick_check(spec: DataSpec, examples: Examples, pixels: PixelCache | None) -> Iterator[str]:
    """Yields a line for each kind of finding and one for all notes.

    Args:
      examples: readable ones, with the `rows` of the pixels.
      pixels: with the headers and fingerprints of the scan; None reads headers of a sample again.
    """
    if pixels is None:
        facts = np.zeros(len(examples), FACTS)
        sample = np.flatnonzero(headers.sample_mask(len(examples)))
        facts["header"][sample] = headers.read_headers(examples, sample)
    else:
        facts = pixels.index.facts[examples.rows]
    of_headers = check_headers(examples, facts["header"], facts["orientation"])
    findings = [*find_imbalance(examples), *check_paths(spec, examples), *of_headers]
    if pixels is not None:
        groups = duplicates.groups_of_equal(facts["fingerprint"])
        findings += duplicates.duplicate_findings(examples, groups, "duplicates")
        if pixels.memory is not None:
            flat = np.isin(examples.rows, single_colour_images(pixels.memory))
            findings += single_colour_findings(examples, flat)
            brightest = brightest_levels(pixels.memory)[examples.rows]
            findings += shallow_findings(examples, brightest)
    findings = kinds.by_severity(findings)
    for finding in findings:
        if finding.kind.level != NOTE:
            first = finding.cases[0]
            detail = f": {first.detail}" if first.detail else ""
            # Never an error, whatever its level: the run continues.
            yield (
                f"{WARNING}: {finding.counted}, such as {', '.join(first.places[:2])}"
                f"{detail}; {finding.kind.advice}; {program('doctor')} shows all"
            )
    if notes := [finding.counted for finding in findings if finding.kind.level == NOTE]:
        yield f"note: {'; '.join(notes)}; {program('doctor')} shows all"
    known = np.count_nonzero(facts["header"]["format"])
    if of_headers and known < len(examples):
        yield f"sizes and formats are those of {known:,} of the {len(examples):,} images"


def check_headers(examples: Examples, rows: np.ndarray, orientations: np.ndarray) -> list[Finding]:
    """Reports extreme sizes and shapes, several frames, EXIF rotation and wrong file names.

    Args:
      rows: headers.COLUMN [N]; empty ones are skipped.
      orientations: int [N], 1…8 as in EXIF, 0 where unknown.
    """
    height, width = rows["height"].astype(np.int64), rows["width"].astype(np.int64)
    shorter, longer = np.minimum(height, width), np.maximum(height, width)
    known, formats = longer > 0, rows["format"].astype(str)

    def pixels(index: int) -> str:
        return f"{width[index]} x {height[index]} pixels"

    checks = {
        "huge": (known & (height * width > HUGE_PIXELS), pixels),
        "tiny": (known & (shorter < TINY_SIDE), pixels),
        "narrow": (known & (longer > NARROW * shorter), pixels),
        "several_frames": (
            rows["frames"] > 1,
            lambda i: f"{rows['frames'][i]} of them, {formats[i]}",
        ),
        "turned": (orientations > 1, lambda i: f"orientation {orientations[i]}"),
    }
    cases = {
        kind: [Case((examples.name(i),), detail(i), (i,)) for i in np.flatnonzero(those).tolist()]
        for kind, (those, detail) in checks.items()
    }
    cases["wrong_name"] = [
        Case((examples.name(i),), wrong, (i,))
        for i in np.flatnonzero(formats != "").tolist()
        if (wrong := headers.misnamed(examples.paths[i], formats[i]))
    ]
    return kinds.collect(cases)


def passed_over_findings(examples: Examples) -> list[Finding]:
    """Reports what lies among the images and is not read, a case for each reason."""
    paths: dict[str, list[str]] = defaultdict(list)
    for one in examples.passed_over:
        paths[one.reason].append(printable(one.path))
    cases = [Case(tuple(those), f"{len(those):,} {reason}") for reason, those in paths.items()]
    return kinds.collect({"passed_over": cases})


def find_imbalance(examples: Examples) -> list[Finding]:
    """Reports a class that has many times the training images of another."""
    counts = dict(zip(examples.classes, examples.subset("train").class_counts(), strict=True))
    present = {name: count for name, count in counts.items() if count}
    if not present or max(present.values()) <= IMBALANCE * min(present.values()):
        return []
    ranked = sorted(present, key=lambda name: -present[name])
    shown = [*ranked[: SHOWN_CLASSES // 2], *ranked[SHOWN_CLASSES // 2 :][-SHOWN_CLASSES // 2 :]]
    return kinds.collect(
        {"imbalance": [Case((name,), f"{present[name]:,} to train on") for name in shown]}
    )


def single_colour_images(images: np.ndarray) -> np.ndarray:
    """Returns int64 [m]: which of uint8 [n, h, w, 3] have a single colour."""
    height, width = images.shape[1:3]
    likely = _flat(images[:, :: -(-height // _PROBES), :: -(-width // _PROBES)])
    return np.array([index for index in np.flatnonzero(likely) if _flat(images[[index]])], int)


def _flat(images: np.ndarray) -> np.ndarray:
    return (np.ptp(images, axis=(1, 2)) <= ONE_COLOUR_LEVELS).all(axis=1)


def single_colour_findings(examples: Examples, flat: np.ndarray) -> list[Finding]:
    """Reports the examples where `flat`, bool [N], is True."""
    indices = np.flatnonzero(flat).tolist()
    return kinds.collect(
        {"one_colour": [Case((examples.name(index),), examples=(index,)) for index in indices]}
    )


def brightest_levels(images: np.ndarray) -> np.ndarray:
    """Returns uint8 [n], the highest level of each of uint8 [n, h, w, 3].

    Above DARK_LEVEL it is that of some pixels.
    """
    height, width = images.shape[1:3]
    some = images[:, :: -(-height // _PROBES), :: -(-width // _PROBES)]
    levels = some.max(axis=(1, 2, 3), initial=0)
    for index in np.flatnonzero(levels <= DARK_LEVEL):
        levels[index] = images[index].max()
    return levels


def shallow_findings(examples: Examples, brightest: np.ndarray) -> list[Finding]:
    """Reports the 16-bit PNG files among dark images, as cameras of 12 bits write them.

    Args:
      brightest: uint8 [N], the highest level of each example.
    """
    cases = []
    for index in np.flatnonzero(brightest <= DARK_LEVEL).tolist():
        try:
            head = read(examples, index)[: len(_DEEP_PNG) + 9]
        except OSError:  # it was readable a moment ago
            continue
        if head.startswith(_DEEP_PNG) and head[-1] == 16:
            share = (int(brightest[index]) + 1) / 256
            cases.append(
                Case((examples.name(index),), f"uses about {share:.0%} of the range", (index,))
            )
    return kinds.collect({"shallow": cases})


def check_paths(spec: DataSpec, examples: Examples) -> list[Finding]:
    """Reports what is unusual about the folders of the data and the names of the examples."""
    folders = []
    if spec.source in ("folders", "split_folders"):
        places = (spec.location, spec.validation_location, spec.test_location)
        folders = [os.path.expanduser(place) for place in places if place]
    roots = [os.path.realpath(folder) for folder in folders]
    cases: dict[str, list[Case]] = defaultdict(list)
    for root in roots:
        for kind, path, detail in _check_links(root, roots):
            cases[kind].append(Case((printable(path),), detail))
    if folders:
        parents = sources.class_parents(spec).values()
        for parent in dict.fromkeys((folders[0], *parents)):
            cases["stray"] += [Case((printable(path),)) for path in _images_in(parent)]
        cases["nested"] = _nested_folders(examples, parents)
    if spec.source == "manifest":
        columns = manifest.unread_columns(spec.location)
        cases["unread_column"] = [
            Case((printable(c),), f"is it the {name}?") for c, name in columns
        ]
    cases["odd_name"] = [
        Case((examples.name(index),), examples=(index,))
        for index, path in enumerate(examples.paths)
        if path.encode(errors="ignore").decode() != path  # other bytes are surrogates
    ]
    return kinds.collect(cases)


def _nested_folders(examples: Examples, parents: Iterable[str]) -> list[Case]:
    """Lists the folders of images below class folders, with the class that they are read as."""
    above = {os.path.normpath(parent) for parent in parents}
    labels = dict(zip(map(os.path.dirname, examples.paths), examples.labels, strict=True))
    return [
        Case((printable(folder),), f"read as class {examples.classes[label]!r}")
        for folder, label in sorted(labels.items())
        if os.path.normpath(os.path.dirname(folder)) not in above
    ]


def _check_links(root: str, roots: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yields (kind, path, detail) of the links below a folder that lead out or in a circle."""
    for path in _links_below(root):
        target = os.path.realpath(path)
        detail = f"leads to {printable(target)}"
        if os.path.islink(target) or _is_inside(path, target):
            yield "link_circle", path, detail
        elif not any(_is_inside(target, root) for root in roots):
            yield "link_outside", path, detail


def _links_below(root: str) -> Iterator[str]:
    """Yields all links without following them. Only lists folders: no other system call."""
    waiting = [root]
    while waiting:
        entries = _entries(waiting.pop())
        yield from (entry.path for entry in entries if entry.is_symlink())
        waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Returns a folder's entries by name; none where it can't be read or has been removed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _images_in(folder: str) -> list[str]:
    """Returns images directly in a folder whose class folders alone are read."""
    entries = _entries(folder)
    return [e.path for e in entries if has_image_name(e.name) and e.is_file()]
