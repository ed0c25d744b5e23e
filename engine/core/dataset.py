"""The data as the engine sees it: batches of a fixed shape and the loader that yields them.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

ViewsOf = Callable[[Any, int], Any]  # examples int32 [n], epoch -> their views, int32 [n]
Lookup = Callable[[Any, Any], tuple[Any, ...]]  # examples, views int32 [n] -> arrays [n, ...]


class Batch(NamedTuple):
    """B examples; where a leading N is mentioned, the batches of N steps, stacked.

    Attributes:
      inputs: uint8 [B, height, width, 3], images in RGB, 0 to 255; or a tuple of the cached
        outputs of a frozen trunk.
      labels: int32 [B], index into the classes.
      weights: float32 [B], 1 for an example, 0 for one that only fills up the batch.
      examples: int32 [B], the example's number in its split; random draws depend on it.
      epochs: int32 [B], counted over all phases; the draws of dropout depend on it.
      views: int32 [B], the augmentation view: the epoch's own number, or one that recurs.
    """

    inputs: Any
    labels: Any
    weights: Any
    examples: Any
    epochs: Any
    views: Any


class ImageGroup(NamedTuple):
    """Consecutive files and URLs, and the images of those that could be read.

    Attributes:
      places: paths and URLs.
      problems: why each has no image, None where it has one.
      images: uint8 [n, H, W, 3], of the others in their order.
    """

    places: Sequence[str]
    problems: Sequence[str | None]
    images: Any


class DataLoader(Protocol):
    """Batches of the splits `train`, `validation` and `test`: no files, no formats.

    Attributes:
      classes: names of the labels.
      class_counts: number of training examples of each class.
      groups: the group of each training example, '' for none; examples of one group show the same
        thing. Empty where no groups are known.
      identity: for each split a digest of its examples and labels; empty where unknown.
    """

    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    validation_examples: int
    test_examples: int
    groups: Sequence[str]
    identity: dict[str, str]

    @property
    def train_examples(self) -> int:
        return sum(self.class_counts)

    def train_batches(
        self,
        first: int,
        stop: int,
        steps_per_execution: int = 1,
        views: ViewsOf | None = None,
        lookup: Lookup | None = None,
    ) -> Iterator[Batch]:
        """Yields the shuffled training batches of the steps first to stop - 1.

        Args:
          first, stop: steps, counted over all phases.
          steps_per_execution: N, how many steps are stacked; fewer at the end of an epoch and of
            the steps.
          views: the augmentation views of some examples in an epoch; default: the epoch's number.
          lookup: cached values that replace the images as inputs; default: images.

        Yields:
          Batches whose columns begin with [N, B].

        Raises:
          UserError: a file can no longer be read or decoded; the message names it.
        """
        ...

    def split_batches(self, split: str, which: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yields every example of a split once, in order; the last batch is padded at weight 0.

        Args:
          split: `train`, `validation` or `test`.
          which: the numbers of the batches to yield; default: all.

        Raises:
          UserError: a file can no longer be read or decoded; the message names it.
        """
        ...

    def example_name(self, example: int, split: str = "train") -> str:
        """Returns where an example is stored, for messages."""
        return str(example)


class Augmentation(Protocol):
    """Random changes of images: a pure function of numbers in [0, 1) that are drawn elsewhere."""

    @property
    def draws(self) -> int:
        """How many numbers each image takes."""

    @property
    def outcomes(self) -> int | None:
        """How many different images it makes of one; None where they can't be counted."""

    def apply(self, images: Any, numbers: Any, /) -> Any:
        """uint8 [B, H, W, 3], float32 [B, draws] -> float32 [B, H, W, 3]."""

    def outcome(self, numbers: Any) -> Any:
        """Which of the outcomes the numbers lead to: float32 [B, draws] -> int [B]."""

    def typical(self, outcome: int) -> Any:
        """Numbers that lead to an outcome, float32 [draws]."""
