"""Images, and builds of their pixel cache; run as a program, a build that waits.

    python -m tests.pipelines.cached IMAGES CACHE memory|disk

prints `decoded` after its first batch and `filled` before it publishes, and each time waits for a
line on its input.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from engine.core.recipe import DataSpec, Phase, Recipe
from pipelines.decode import decode
from pipelines.pixel_cache import index as index_files
from pipelines.pixel_cache.build import PixelCacheBuilder, ScanResult
from pipelines.pixel_cache.cache import NOWHERE, CacheLocation
from pipelines.pixel_cache.index import FACTS, CacheIndex
from pipelines.pixel_cache.store import PixelWriter
from pipelines.sources.examples import from_columns
from tests.pipelines.encoded_images import saved

SIZE = (24, 20)
ROW = 24 * 20 * 3
PLENTY = 10**9
NO_DATA = DataSpec("folders", "")
MEMORY = {"memory": PLENTY, "disk": 0}


def image(seed: int) -> bytes:
    """A JPEG file of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (40, 30, 3), np.uint8)
    return saved(Image.fromarray(noise), "JPEG")


def write(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Writes images `first` to `count` - 1, all different."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:03}.jpg" for number in range(first, count)]
    for number, path in enumerate(paths, first):
        path.write_bytes(image(number))
    return paths


def replace(path: Path, contents: bytes) -> None:
    """Replaces the start of a file's contents; its size and its time stay."""
    status = path.stat()
    path.write_bytes((contents + bytes(status.st_size))[: status.st_size])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def spoil(*paths: Path) -> None:
    """Makes files undecodable without a change that `index` sees: not even of their ctime."""
    for path in paths:
        SPOILED[str(path)] = index_files._status(str(path))
        replace(path, b"x")


SPOILED: dict[str, tuple[bytes, int, int]] = {}
_status = index_files._status


def _status_before(path: str) -> tuple[bytes, int, int]:
    """As `_status`, with the ctime that a file had before it was spoiled."""
    now, before = _status(path), SPOILED.get(path)
    return before if before and before[0] == now[0] else now


index_files._status = _status_before


def quick_decode(contents, height, width, resize="squash", alone=True):
    """Stands in for `decode.decode_oriented`, whose graph takes half a second to build."""
    pixels = tf.io.decode_image(contents, channels=3, expand_animations=False)
    pixels = pixels[::-1] if resize == "crop" else pixels
    pixels.set_shape([None, None, 3])
    small = tf.image.resize(pixels, (height, width), "nearest")
    return tf.cast(small, tf.uint8), tf.constant(1)


def listed(paths, **columns):
    names = [str(path) for path in paths]
    return from_columns(names, [0] * len(names), ("a",), keys=names, **columns)


def recipe_of(data=NO_DATA, size=SIZE, **options) -> Recipe:
    phases = (Phase("transfer"),)
    return Recipe(data, phases, backbone="efficientnet_lite0", image_size=size, **options)


def builder(paths, location=NOWHERE, log=lambda line: None, where=(), **options):
    recipe = recipe_of(**options)
    return PixelCacheBuilder(listed(paths, **dict(where)), recipe, 2, log, location)


def blank_index(count: int) -> CacheIndex:
    """Of images of which nothing is known."""
    return CacheIndex("", np.zeros(count, FACTS), np.full(count, "", object))


def build(paths, folder, memory=PLENTY, log=lambda line: None, **options) -> ScanResult:
    """Builds the cache and waits until it is written."""
    result = builder(paths, CacheLocation(folder, memory), log, **options).build()
    if result.pixels:
        result.pixels.wait()
    return result


def expected(paths, size=SIZE, resize="squash") -> np.ndarray:
    """uint8 [N, height, width, 3]."""
    contents = [Path(path).read_bytes() for path in paths]
    return np.stack([decode.decode(one, *size, resize).numpy() for one in contents])


def taken(result: ScanResult) -> np.ndarray:
    """uint8 [N, height, width, 3] of the examples that are not broken."""
    assert result.pixels
    return result.pixels.take(result.examples.rows[result.examples.rows >= 0])


def check(result: ScanResult, wanted) -> None:
    """No image is broken and all have these pixels."""
    assert result.broken == []
    np.testing.assert_array_equal(taken(result), wanted)


def indices(result: ScanResult) -> list[int]:
    """Of the broken images."""
    return [image.index for image in result.broken]


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != ".lock")


def _wait_at(word: str) -> None:
    print(word, flush=True)
    sys.stdin.readline()


def main(images: str, cache: str, kind: str) -> None:
    put, publish = PixelCacheBuilder._put, PixelWriter.publish

    def put_and_wait(self, rows, values):
        put(self, rows, values)
        if not vars(self).get("waited"):
            self.waited = True
            _wait_at("decoded")

    def wait_and_publish(self, index):
        _wait_at("filled")
        return publish(self, index)

    PixelCacheBuilder._put = put_and_wait
    PixelWriter.publish = wait_and_publish
    decode.decode_oriented = quick_decode
    paths = sorted(Path(images).iterdir())
    result = build(paths, Path(cache), MEMORY[kind])
    right = np.array_equal(taken(result), expected(paths))
    print("right" if right and not result.broken else "wrong", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
