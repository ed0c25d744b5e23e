"""Images that have something to look at, each unlike the others."""

import io

import numpy as np
from PIL import Image

from tests.pipelines.encoded_images import saved


def drawn(seed: int) -> Image.Image:
    """Soft blobs with edges and grain, as photographs have them."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), np.uint8))
    pixels = np.asarray(coarse.resize((320, 240), Image.BICUBIC)).astype(float)
    for _ in range(6):
        top, left = random.integers(0, 200), random.integers(0, 280)
        pixels[top : top + 50, left : left + 60] = random.integers(0, 256, 3)
    return Image.fromarray(np.clip(pixels + random.normal(0, 6, pixels.shape), 0, 255).astype("u1"))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


SCENES = [drawn(seed) for seed in range(40)]


def scene(number: int, quality: int = 90) -> bytes:
    """One of them as a JPEG file."""
    return saved(SCENES[number], "JPEG", quality=quality)
