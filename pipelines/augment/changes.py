"""The table of augmentations: the changes of an image, each by the arguments of a call.

An entry takes the arguments of a call such as `rotate(30)` and returns an `ImageChange`: how many
random numbers it needs and how they change the image. The numbers in [0, 1) are drawn elsewhere,
from (seed, view, example). `pipelines.augment.transforms` and `filters` are passed in as `m` and
`f`, so that this table needs no TensorFlow.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from engine.core.call_syntax import Call
from engine.core.errors import UserError, choose

# Lower and upper limits of the arguments.
_LIMITS = {
    "degrees": (0, 180),
    "share": (0, 1),
    "radians": (0, 1.5),
    "reach": (0, 1),
    "probability": (0, 1),
    "scale": (0.01, 1),
    "ratio": (1, 10),
    "bits": (1, 8),
    "threshold": (0, 256),
}


_CROP_TRIES = 10  # as torchvision


class ImageChange(NamedTuple):
    """One change of an image, of one or more kinds.

    Attributes:
      draws: how many random numbers it takes: tensors, float32 [B], 0 to 1.
      geometry: `geometry(m, numbers, size)` -> [B, 3, 3]; size: (height, width) in pixels.
      colour: `colour(m, numbers, mean)` -> [B, 4, 4]; mean: that of the images, float32
        [B, 3].
      filter: `filter(m, f, numbers, images)` -> images, float32 [B, H, W, 3], 0 to 255.
      edges: of a change with few outcomes, the numbers at which the outcome changes.
    """

    draws: int
    geometry: Callable[..., Any] | None = None
    colour: Callable[..., Any] | None = None
    filter: Callable[..., Any] | None = None
    edges: tuple[float, ...] | None = None


def _spread(number: Any, reach: float, middle: float = 0.0) -> Any:
    """Maps a number in [0, 1) to middle - reach … middle + reach."""
    return middle + (2 * number - 1) * reach


def _geometry(draws: int, matrix: Callable) -> ImageChange:
    return ImageChange(draws, geometry=matrix)


def _discrete(*edges: float, **kind: Callable) -> ImageChange:
    """Returns a change of few outcomes; edges at 0 or 1 separate nothing."""
    inside = tuple(edge for edge in edges if 0 < np.float32(edge) < 1)
    return ImageChange(1, **kind, edges=inside)


def _colour(draws: int, matrix: Callable) -> ImageChange:
    return ImageChange(draws, colour=matrix)


def rotate(degrees: float = 30) -> ImageChange:
    """Rotates by up to `degrees` either way."""
    return _geometry(1, lambda m, u, _: m.rotation(_spread(u[0], math.radians(degrees))))


def shift(share: float = 0.2) -> ImageChange:
    """Shifts by up to `share` of the height and of the width."""
    return _geometry(
        2,
        lambda m, u, size: m.translation(
            _spread(u[0], share * size[0]), _spread(u[1], share * size[1])
        ),
    )


def shear(radians: float = 0.2) -> ImageChange:
    """Shears by up to `radians` either way."""
    return _geometry(1, lambda m, u, _: m.shearing(_spread(u[0], radians)))


def zoom(reach: float = 0.2) -> ImageChange:
    """Scales each axis by its own factor, 1 - reach to 1 + reach; below 1 enlarges."""
    return _geometry(2, lambda m, u, _: m.scaling(_spread(u[0], reach, 1), _spread(u[1], reach, 1)))


def flip(probability: float = 0.5) -> ImageChange:
    """Exchanges left and right."""
    return _discrete(
        probability, geometry=lambda m, u, _: m.scaling(1.0, m.mirror(u[0], probability))
    )


def vertical_flip(probability: float = 0.5) -> ImageChange:
    """Exchanges top and bottom."""
    return _discrete(
        probability, geometry=lambda m, u, _: m.scaling(m.mirror(u[0], probability), 1.0)
    )


def turn() -> ImageChange:
    """Rotates by 0, 90, 180 or 270 degrees; for square images."""

    def matrix(m, u, size):
        if size[0] != size[1]:
            raise UserError(
                f"augmentation 'turn' with images of {size[0]}x{size[1]}; allowed: square ones; "
                "omit turn or give --image_size=N"
            )
        return m.quarter_turn(u[0])

    return _discrete(0.25, 0.5, 0.75, geometry=matrix)


def random_resized_crop(scale: float = 0.08, ratio: float = 4 / 3) -> ImageChange:
    """Enlarges a random rectangle to the whole image.

    It has a share of the area from `scale` to 1, and an aspect ratio from 1 / ratio to ratio times
    that of a square. Source: Szegedy et al., "Going Deeper with Convolutions", 2015, section 6, as
    in torchvision's RandomResizedCrop.
    """
    draws = 2 * _CROP_TRIES + 2
    return _geometry(draws, lambda m, u, size: m.crop(u, scale, ratio, size))


def brightness(share: float = 0.2) -> ImageChange:
    """Adds or subtracts up to `share` of the full range of 255."""
    return _colour(1, lambda m, u, _: m.offset(_spread(u[0], 255 * share)))


def contrast(reach: float = 0.2) -> ImageChange:
    """Multiplies distances from the image's mean grey by 1 - reach to 1 + reach."""
    return _colour(1, lambda m, u, mean: m.contrast(_spread(u[0], reach, 1), mean))


def saturation(reach: float = 0.2) -> ImageChange:
    """Multiplies distances from each pixel's grey by 1 - reach to 1 + reach."""
    return _colour(1, lambda m, u, _: m.saturation(_spread(u[0], reach, 1)))


def hue(degrees: float = 10) -> ImageChange:
    """Rotates colours by up to `degrees` on the colour wheel."""
    return _colour(1, lambda m, u, _: m.hue(_spread(u[0], math.radians(degrees))))


def sharpness(reach: float = 0.5) -> ImageChange:
    """Multiplies distances from the smoothed image by 1 - reach to 1 + reach."""

    def apply(m, f, u, images):
        return f.change_some(images, m.below(u[0], 1), _spread(u[0], reach, 1), [f.sharpen])

    return ImageChange(1, filter=apply)


def posterize(bits: float = 4, probability: float = 0.5) -> ImageChange:
    """Keeps the highest bits of each level; bits is a whole number."""
    if bits != int(bits):
        raise UserError(f"augmentation 'posterize': bits={bits}; allowed: a whole number, 1 to 8")
    return _sometimes("posterize", probability, 8 - bits)


def solarize(threshold: float = 128, probability: float = 0.5) -> ImageChange:
    """Inverts the levels from `threshold` on."""
    return _sometimes("solarize", probability, threshold)


def auto_contrast(probability: float = 0.5) -> ImageChange:
    """Stretches the levels of each channel to the full range."""
    return _sometimes("auto_contrast", probability)


def equalize(probability: float = 0.5) -> ImageChange:
    """Equalizes the histogram of each channel."""
    return _sometimes("equalize", probability)


def _sometimes(name: str, probability: float, strength: float = 0.0) -> ImageChange:
    def apply(m, f, u, images):
        which = m.below(u[0], probability)
        return f.change_some(images, which, strength + 0 * which, [getattr(f, name)])

    return _discrete(probability, filter=apply)


# The operations of trivial_augment by number.
_MATRICES = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "colour", "contrast"),
)
_FILTERS = ("sharpen", "posterize", "solarize", "auto_contrast", "equalize")
_OPERATIONS = (*_MATRICES, *_FILTERS)
_BINS = 31  # of strength


def trivial_augment() -> ImageChange:
    """Applies one of fourteen operations, at a random strength.

    Source: Müller and Hutter, "TrivialAugment", ICCV 2021, in the ranges of torchvision's
    TrivialAugmentWide (`_augmentation_space`). Shearing is about the image's centre, and geometry
    is bilinear and shows the nearest pixel beyond the edge, as elsewhere here.
    """

    def drawn(m, u):
        """The operation's number, and its strength in bins, negative half of the time."""
        return m.choice(u[0], len(_OPERATIONS)), m.mirror(u[2], 0.5) * m.choice(u[1], _BINS)

    def amount(m, u, name, reach):
        """0 where another operation was drawn."""
        operation, strength = drawn(m, u)
        chosen = m.below(abs(operation - _OPERATIONS.index(name)), 0.5)
        return chosen * strength * (reach / (_BINS - 1))

    def geometry(m, u, _):
        names = ("rotate", "shear_y", "shear_x", "translate_y", "translate_x")
        reaches = (math.radians(135), 0.99, 0.99, 32, 32)
        return m.one_motion(*(amount(m, u, *pair) for pair in zip(names, reaches, strict=True)))

    def colour(m, u, mean):
        gain, saturation, contrast = (
            1 + amount(m, u, name, 0.99) for name in ("brightness", "colour", "contrast")
        )
        return m.gain(gain) @ m.saturation(saturation) @ m.contrast(contrast, mean)

    def apply(m, f, u, images):
        operation, strength = drawn(m, u)
        first, last = len(_MATRICES), _BINS - 1
        which = (operation - first + 1) * (1 - m.below(operation, first))
        filters = {
            "sharpen": lambda x, s: f.sharpen(x, 1 + s * (0.99 / last)),
            "posterize": lambda x, s: f.posterize(x, abs(s) * (6 / last)),
            "solarize": lambda x, s: f.solarize(x, 255 - abs(s) * (255 / last)),
            "auto_contrast": f.auto_contrast,
            "equalize": f.equalize,
        }
        return f.change_some(images, which, strength, [filters[name] for name in _FILTERS])

    return ImageChange(3, geometry, colour, apply)


def parse_changes(calls: Iterable[Call]) -> list[ImageChange]:
    """Returns the changes of calls such as `rotate(30)`.

    Raises:
      UserError: no such augmentation, or an argument that it does not take.
    """
    return [_change(call) for call in calls]


def _change(call: Call) -> ImageChange:
    entry = choose(call.name, AUGMENTATIONS, "augmentation")
    signature = inspect.signature(entry)
    limits = [(name, _LIMITS[name]) for name in signature.parameters]
    values = ", ".join(f"{name} from {low:g} to {high:g}" for name, (low, high) in limits)
    allowed = f"allowed: {call.name}({values})"
    try:
        arguments = signature.bind(*call.args, **call.kwargs).arguments
    except TypeError as error:
        raise UserError(f"augmentation {call}: {error}; {allowed}") from None
    for name, value in arguments.items():
        low, high = _LIMITS[name]
        if type(value) not in (int, float) or not low <= value <= high:
            raise UserError(f"augmentation {call}: {name}={value!r}; {allowed}")
    return entry(**arguments)


AUGMENTATIONS: dict[str, Callable[..., ImageChange]] = {
    entry.__name__: entry
    for entry in (
        *(rotate, shift, shear, zoom, flip, vertical_flip, turn, random_resized_crop),
        *(brightness, contrast, saturation, hue),
        *(sharpness, posterize, solarize, auto_contrast, equalize, trivial_augment),
    )
}
