"""Augmentation: all geometry in one matrix and one resampling, all colour changes in another.

An entry of AUGMENTATIONS takes the arguments of a call, such as `rotate(30)`, and returns an
`ImageChange`: how many random numbers it needs and how they become a matrix. The numbers in [0, 1)
are drawn elsewhere, from (seed, view, example). The matrices come from
`pipelines.augment.transforms`, passed in as `m`, so that this table needs no TensorFlow.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from engine.core.call_syntax import Call
from engine.core.errors import UserError, choose

# Upper limits of the arguments.
_MAX_VALUES = {"degrees": 180, "share": 1, "radians": 1.5, "reach": 1, "probability": 1}


class ImageChange(NamedTuple):
    """One change of an image.

    Attributes:
      draws: how many random numbers it takes.
      matrix: `matrix(m, numbers, about)` -> [B, 3, 3] (geometry) or [B, 4, 4] (colour). numbers:
        `draws` tensors, float32 [B], 0 to 1. about: for geometry (height, width) in pixels, for
        colour the image's mean colour, float32 [B, 3].
      edges: of a change with few outcomes, the numbers at which the outcome changes.
    """

    kind: str
    draws: int
    matrix: Callable[..., Any]
    edges: tuple[float, ...] | None = None


class Augmentation(NamedTuple):
    """Implements `engine.core.dataset.Augmentation`.

    Attributes:
      edges: those of each change; None where one has many outcomes.
    """

    draws: int
    apply: Callable[[Any, Any], Any]
    edges: tuple[tuple[float, ...], ...] | None = None

    @property
    def outcomes(self) -> int | None:
        """Number of different images of one; None where they can't be counted."""
        return None if self.edges is None else math.prod(len(edges) + 1 for edges in self.edges)

    def warm(self, count: int, height: int, width: int) -> threading.Thread:
        """Compiles the programs for batches of this shape on a thread."""
        import tensorflow as tf

        def work() -> None:
            with contextlib.suppress(Exception):  # training raises it again
                images = tf.zeros((count, height, width, 3), tf.uint8)
                self.apply(images, tf.zeros((count, self.draws)))

        thread = threading.Thread(target=work, name="warm")
        thread.start()
        return thread

    def outcome(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the outcome, int [B], of numbers float32 [B, draws]."""
        place = np.zeros(len(numbers), int)
        for column, edges in enumerate(self.edges or ()):
            index = np.searchsorted(np.array(edges, np.float32), numbers[:, column], side="right")
            place = place * (len(edges) + 1) + index
        return place

    def typical(self, outcome: int) -> np.ndarray:
        """Returns numbers with that outcome, float32 [draws]: the middle between its edges."""
        numbers: list[float] = []
        for edges in reversed(self.edges or ()):
            outcome, index = divmod(outcome, len(edges) + 1)
            ends = (0.0, *edges, 1.0)
            numbers.insert(0, (ends[index] + ends[index + 1]) / 2)
        return np.array(numbers, np.float32)


def _spread(number: Any, reach: float, middle: float = 0.0) -> Any:
    """Maps a number in [0, 1) to middle - reach … middle + reach."""
    return middle + (2 * number - 1) * reach


def _geometry(draws: int, matrix: Callable) -> ImageChange:
    return ImageChange("geometry", draws, matrix)


def _discrete(matrix: Callable, *edges: float) -> ImageChange:
    """Returns a geometry of few outcomes; edges at 0 or 1 separate nothing."""
    inside = tuple(edge for edge in edges if 0 < np.float32(edge) < 1)
    return ImageChange("geometry", 1, matrix, inside)


def _colour(draws: int, matrix: Callable) -> ImageChange:
    return ImageChange("colour", draws, matrix)


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
    return _discrete(lambda m, u, _: m.scaling(1.0, m.mirror(u[0], probability)), probability)


def vertical_flip(probability: float = 0.5) -> ImageChange:
    """Exchanges top and bottom."""
    return _discrete(lambda m, u, _: m.scaling(m.mirror(u[0], probability), 1.0), probability)


def turn() -> ImageChange:
    """Rotates by 0, 90, 180 or 270 degrees; for square images."""

    def matrix(m, u, size):
        if size[0] != size[1]:
            raise UserError(
                f"augmentation 'turn' with images of {size[0]}x{size[1]}; allowed: square ones; "
                "omit turn or give --image_size=N"
            )
        return m.quarter_turn(u[0])

    return _discrete(matrix, 0.25, 0.5, 0.75)


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


def parse_changes(calls: Iterable[Call]) -> list[ImageChange]:
    """Returns the changes of calls such as `rotate(30)`.

    Raises:
      UserError: no such augmentation, or an argument that it does not take.
    """
    return [_change(call) for call in calls]


def _change(call: Call) -> ImageChange:
    entry = choose(call.name, AUGMENTATIONS, "augmentation")
    signature = inspect.signature(entry)
    values = ", ".join(f"{name} from 0 to {_MAX_VALUES[name]:g}" for name in signature.parameters)
    allowed = f"allowed: {call.name}({values})"
    try:
        arguments = signature.bind(*call.args, **call.kwargs).arguments
    except TypeError as error:
        raise UserError(f"augmentation {call}: {error}; {allowed}") from None
    for name, value in arguments.items():
        if type(value) not in (int, float) or not 0 <= value <= _MAX_VALUES[name]:
            raise UserError(f"augmentation {call}: {name}={value!r}; {allowed}")
    return entry(**arguments)


def compose(calls: Iterable[Call]) -> Augmentation:
    """Composes all changes into one function.

    Geometry and colour changes act in the order of the calls, each among themselves: the first
    call's matrix is leftmost, as in Keras' ImageDataGenerator (rotate, shift, shear, zoom). The
    matrices are compiled separately: the resampling would compute them again for every pixel.
    """
    import tensorflow as tf

    from pipelines.augment import transforms as m

    steps = parse_changes(calls)
    draws = sum(step.draws for step in steps)

    @tf.function(autograph=False, jit_compile=True)
    def matrices(images, numbers):
        return _matrices(m, steps, images, tf.unstack(numbers, draws, axis=1))

    def apply(images, numbers):
        geometry, colour = matrices(images, numbers) if steps else (None, None)
        pixels = tf.cast(images, tf.float32) if geometry is None else m.resample(images, geometry)
        return pixels if colour is None else m.recolour(pixels, colour)

    edges = tuple(step.edges for step in steps if step.edges is not None)
    return Augmentation(draws, apply, edges if len(edges) == len(steps) else None)


def _matrices(m: Any, steps: list[ImageChange], images: Any, numbers: list) -> tuple[Any, Any]:
    """Returns the products of all geometry and of all colour matrices, None for none."""
    geometry = colour = None
    for step in steps:
        own, numbers = numbers[: step.draws], numbers[step.draws :]
        if step.kind == "geometry":
            matrix = step.matrix(m, own, images.shape[1:3])
            geometry = matrix if geometry is None else geometry @ matrix
        else:
            matrix = step.matrix(m, own, m.mean_colour(images, colour))
            colour = matrix if colour is None else matrix @ colour
    return geometry, colour


AUGMENTATIONS: dict[str, Callable[..., ImageChange]] = {
    entry.__name__: entry
    for entry in (
        *(rotate, shift, shear, zoom, flip, vertical_flip, turn),
        *(brightness, contrast, saturation, hue),
    )
}
