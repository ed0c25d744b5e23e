"""Folders and manifests of files that are listed, and never read as images."""

from engine.core.recipe import DataSpec
from pipelines.sources import sources


def fill(root, *names, contents=None):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(contents or name.encode())
    return root


def images(place, count):
    return [f"{place}/{index}.jpg" for index in range(count)]


def folders(root, **options):
    return sources.load_examples(DataSpec("folders", str(root), **options))


def counts(examples):
    return [examples.subset(split).class_counts() for split in ("train", "validation", "test")]


def manifest(root, text, **options):
    (root / "list.csv").write_text(text, encoding="utf-8")
    return sources.load_examples(DataSpec("manifest", str(root / "list.csv"), **options))
