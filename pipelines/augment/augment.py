"""Augmentation: every geometry in ONE matrix and one resampling, every colour in one more.

An entry of AUGMENTATIONS takes what the user writes, as in `rotate(30)`, and gives a `Change`: how
many random numbers it needs and how they become a matrix. Drawing and applying are apart: numbers
in [0, 1) are drawn elsewhere, from (seed, epoch, example), and passed in, so that a test can pass
its own. What a change does to the numbers it gets is plain arithmetic; the matrices come from
`pipelines.augment.transforms`, handed in as `m`, so that reading this table needs no TensorFlow.
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

# The most that a value of each name may be: beyond it an image says nothing, or says it twice.
_MOST = {"degrees": 180, "share": 1, "radians": 1.5, "reach": 1, "probability": 1}


class Change(NamedTuple):
    """`matrix(m, numbers, about)` -> [B, 3, 3] (geometry) or [B, 4, 4] (colour).

    numbers: `draws` tensors, float32 [B], 0 to 1. about: for geometry the (height, width) in
    pixels, for colour the image's mean colour, float32 [B, 3]. edges: where the one number that
    it draws makes a difference, if it has few outcomes: those from one edge to the next are alike.
    """

    kind: str
    draws: int
    matrix: Callable[..., Any]
    edges: tuple[float, ...] | None = None


class Augmentation(NamedTuple):
    """`apply(images, numbers)`: uint8 [B, H, W, 3], float32 [B, draws] -> float32 [B, H, W, 3].

    edges: those of each change, where every change has few outcomes; None where one has many.
    """

    draws: int
    apply: Callable[[Any, Any], Any]
    edges: tuple[tuple[float, ...], ...] | None = None

    @property
    def outcomes(self) -> int | None:
        """How many different images it makes of one; None where they can't be counted."""
        return None if self.edges is None else math.prod(len(edges) + 1 for edges in self.edges)

    def warm(self, count: int, height: int, width: int) -> threading.Thread:
        """Compiles the programs for batches of this shape on a thread, while other things go on."""
        import tensorflow as tf

        def work() -> None:
            with contextlib.suppress(Exception):  # whoever asks for the images will see it again
                images = tf.zeros((count, height, width, 3), tf.uint8)
                self.apply(images, tf.zeros((count, self.draws)))

        thread = threading.Thread(target=work, name="warm")
        thread.start()
        return thread

    def outcome(self, numbers: np.ndarray) -> np.ndarray:
        """Which of the outcomes the numbers lead to: float32 [B, draws] -> int [B]."""
        place = np.zeros(len(numbers), int)
        for column, edges in enumerate(self.edges or ()):
            index = np.searchsorted(np.array(edges, np.float32), numbers[:, column], side="right")
            place = place * (len(edges) + 1) + index
        return place

    def typical(self, outcome: int) -> np.ndarray:
        """Numbers that lead to an outcome, float32 [draws]: the middle between its edges."""
        numbers: list[float] = []
        for edges in reversed(self.edges or ()):
            outcome, index = divmod(outcome, len(edges) + 1)
            ends = (0.0, *edges, 1.0)
            numbers.insert(0, (ends[index] + ends[index + 1]) / 2)
        return np.array(numbers, np.float32)


def _around(number: Any, reach: float, middle: float = 0.0) -> Any:
    """A number in [0, 1) spread over middle - reach to middle + reach."""
    return middle + (2 * number - 1) * reach


def _geometry(draws: int, matrix: Callable) -> Change:
    return Change("geometry", draws, matrix)


def _either(matrix: Callable, *edges: float) -> Change:
    """A geometry of few outcomes. No number lies beyond an edge at 0 or 1: it parts nothing."""
    inside = tuple(edge for edge in edges if 0 < np.float32(edge) < 1)
    return Change("geometry", 1, matrix, inside)


def _colour(draws: int, matrix: Callable) -> Change:
    return Change("colour", draws, matrix)


def rotate(degrees: float = 30) -> Change:
    """A turn by up to `degrees` either way."""
    return _geometry(1, lambda m, u, _: m.rotation(_around(u[0], math.radians(degrees))))


def shift(share: float = 0.2) -> Change:
    """A shift by up to `share` of the height and of the width."""
    return _geometry(
        2,
        lambda m, u, size: m.translation(
            _around(u[0], share * size[0]), _around(u[1], share * size[1])
        ),
    )


def shear(radians: float = 0.2) -> Change:
    """A shear by up to `radians` either way."""
    return _geometry(1, lambda m, u, _: m.shearing(_around(u[0], radians)))


def zoom(reach: float = 0.2) -> Change:
    """Each axis by a factor of its own, 1 - reach to 1 + reach; below 1 is nearer."""
    return _geometry(2, lambda m, u, _: m.scaling(_around(u[0], reach, 1), _around(u[1], reach, 1)))


def flip(probability: float = 0.5) -> Change:
    """Left and right exchanged."""

    def matrix(m, u, _):
        return m.scaling(1.0, _mirror(m, u[0], probability))

    return _either(matrix, probability)


def vertical_flip(probability: float = 0.5) -> Change:
    """Top and bottom exchanged."""

    def matrix(m, u, _):
        return m.scaling(_mirror(m, u[0], probability), 1.0)

    return _either(matrix, probability)


def _mirror(m: Any, number: Any, probability: float) -> Any:
    return 1 - 2 * m.below(number, probability)


def turn() -> Change:
    """None to three quarter turns; for square images."""

    def matrix(m, u, size):
        if size[0] != size[1]:
            raise UserError(
                f"augmentation 'turn' with images of {size[0]}x{size[1]}; allowed: square ones; "
                "leave turn away or give --image_size=N"
            )
        return m.quarter_turn(u[0])

    return _either(matrix, 0.25, 0.5, 0.75)


def brightness(share: float = 0.2) -> Change:
    """Up to `share` of the full range of 255 added or taken away."""
    return _colour(1, lambda m, u, _: m.offset(_around(u[0], 255 * share)))


def contrast(reach: float = 0.2) -> Change:
    """Distances from the image's mean grey times 1 - reach to 1 + reach."""
    return _colour(1, lambda m, u, mean: m.contrast(_around(u[0], reach, 1), mean))


def saturation(reach: float = 0.2) -> Change:
    """Distances from each pixel's grey times 1 - reach to 1 + reach."""
    return _colour(1, lambda m, u, _: m.saturation(_around(u[0], reach, 1)))


def hue(degrees: float = 10) -> Change:
    """Colours turned by up to `degrees` on the colour wheel."""
    return _colour(1, lambda m, u, _: m.hue(_around(u[0], math.radians(degrees))))


def changes(calls: Iterable[Call]) -> list[Change]:
    """The calls' entries of AUGMENTATIONS with the calls' values.

    Raises:
      UserError: no such augmentation, a value that it does not take, or one that is no number.
    """
    return [_change(call) for call in calls]


def _change(call: Call) -> Change:
    entry = choose(call.name, AUGMENTATIONS, "augmentation")
    signature = inspect.signature(entry)
    values = ", ".join(f"{name} from 0 to {_MOST[name]:g}" for name in signature.parameters)
    allowed = f"allowed: {call.name}({values})"
    try:
        given = signature.bind(*call.args, **call.kwargs).arguments
    except TypeError as error:
        raise UserError(f"augmentation {call}: {error}; {allowed}") from None
    for name, value in given.items():
        if type(value) not in (int, float) or not 0 <= value <= _MOST[name]:
            raise UserError(f"augmentation {call}: {name}={value!r}; {allowed}")
    return entry(**given)


def compose(calls: Iterable[Call]) -> Augmentation:
    """All changes as one function.

    They act in the order given, geometry and colour each among themselves: the first call's matrix
    stands leftmost, as in Keras' ImageDataGenerator (rotate, shift, shear, zoom). The matrices are
    a compiled program of their own: the resampling would work them out anew for every pixel.
    """
    import tensorflow as tf

    from pipelines.augment import transforms as m

    steps = changes(calls)
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


def _matrices(m: Any, steps: list[Change], images: Any, numbers: list) -> tuple[Any, Any]:
    """The product of all geometry matrices and that of all colour matrices, None for none."""
    geometry = colour = None
    for step in steps:
        mine, numbers = numbers[: step.draws], numbers[step.draws :]
        if step.kind == "geometry":
            matrix = step.matrix(m, mine, images.shape[1:3])
            geometry = matrix if geometry is None else geometry @ matrix
        else:
            matrix = step.matrix(m, mine, m.mean_colour(images, colour))
            colour = matrix if colour is None else matrix @ colour
    return geometry, colour


AUGMENTATIONS: dict[str, Callable[..., Change]] = {
    "rotate": rotate,
    "shift": shift,
    "shear": shear,
    "zoom": zoom,
    "flip": flip,
    "vertical_flip": vertical_flip,
    "turn": turn,
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}
