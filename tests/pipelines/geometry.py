"""What SciPy makes of a geometry matrix, and noisy images to try it on."""

import numpy as np
from scipy import ndimage


def noise(height: int, width: int, count: int = 2) -> np.ndarray:
    """uint8 [count, height, width, 3], the same at each call."""
    random = np.random.default_rng(height * 100 + width)
    return random.integers(0, 256, (count, height, width, 3), np.uint8)


def resampled(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """float64 [H, W, 3]: `affine_transform` about the centre, channel by channel."""
    linear, moved = matrix[:2, :2], matrix[:2, 2]
    centre = (np.array(image.shape[:2]) - 1) / 2
    offset = centre - linear @ centre + moved
    channels = [
        ndimage.affine_transform(channel, linear, offset, order=1, mode="nearest")
        for channel in np.moveaxis(image.astype(float), -1, 0)
    ]
    return np.stack(channels, -1)
