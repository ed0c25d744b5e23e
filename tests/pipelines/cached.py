"""Images and looks at them for tests of the cache; run as a program, a look that waits.

    python -m tests.pipelines.cached IMAGES CACHE memory|disk

prints `decoded` after its first batch and `filled` before it publishes, and each time waits for a
line on its input.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.decode import decode
from pipelines.pixel_cache import pixel_cache, pixel_files, pixel_fill
from pipelines.pixel_cache.pixel_plan import Seen, plan
from pipelines.pixel_cache.store import CacheLocation
from pipelines.sources.examples import from_columns
from tests.pipelines.encoded_images import saved

SIZE = (24, 20)
ROW = 24 * 20 * 3
PLENTY = 10**9
MEMORY = {"memory": PLENTY, "disk": 0}
KINDS = pytest.mark.parametrize("memory", MEMORY.values(), ids=MEMORY)


def image(seed: int) -> bytes:
    """A JPEG file of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (40, 30, 3), np.uint8)
    return saved(Image.fromarray(noise), "JPEG")


def write(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Images `first` to `count` - 1 as files, each of its own."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:03}.jpg" for number in range(first, count)]
    for number, path in enumerate(paths, first):
        path.write_bytes(image(number))
    return paths


def spoil(path: Path) -> None:
    """Other bytes, the same to the eye of `stat`: whoever decodes the file finds it broken."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def look(
    paths, folder, memory=PLENTY, say=lambda line: None, size=SIZE, resize="squash", **columns
):
    """A look that has also finished writing."""
    names = [str(path) for path in paths]
    examples = from_columns(names, [0] * len(names), ("a",), keys=names, **columns)
    seen = pixel_cache.look(plan(examples, size, resize, 2, say, CacheLocation(folder, memory)))
    if seen.pixels:
        seen.pixels.wait()
    return seen


def decoded(path, size=SIZE, resize="squash") -> np.ndarray:
    return decode.decode(Path(path).read_bytes(), *size, resize).numpy()


def expected(paths, **how) -> np.ndarray:
    """uint8 [N, height, width, 3]."""
    return np.stack([decoded(path, **how) for path in paths])


def taken(seen: Seen) -> np.ndarray:
    """uint8 [N, height, width, 3] of the sound examples."""
    assert seen.pixels
    return seen.pixels.take(seen.examples.rows[seen.examples.rows >= 0])


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != ".lock")


def _wait_at(word: str) -> None:
    print(word, flush=True)
    sys.stdin.readline()


def main(images: str, cache: str, kind: str) -> None:
    put, publish = pixel_fill.Filling._put, pixel_files.Part.publish

    def put_and_wait(self, rows, values):
        put(self, rows, values)
        if not vars(self).get("waited"):
            self.waited = True
            _wait_at("decoded")

    def wait_and_publish(self, index, examples):
        _wait_at("filled")
        return publish(self, index, examples)

    pixel_fill.Filling._put = put_and_wait
    pixel_files.Part.publish = wait_and_publish
    paths = sorted(Path(images).iterdir())
    seen = look(paths, Path(cache), MEMORY[kind])
    right = np.array_equal(taken(seen), expected(paths))
    print("right" if right and not seen.broken else "wrong", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
