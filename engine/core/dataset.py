"""The data as the engine sees it: batches of fixed shape, and where they come from.

Standard library only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol


class Batch(NamedTuple):
    """B examples, of a fixed shape; where a leading N is said to stand before B, N such batches.

    inputs: uint8 [B, height, width, 3], images in RGB, 0 to 255; or, where the outputs of a
      frozen trunk are kept, a tuple of those.
    labels: int32 [B], index into the classes.
    weights: float32 [B], 1 for an example, 0 for one that only fills the batch up.
    examples: int32 [B], the example's number in its part; what random draws depend on.
    epochs: int32 [B], counted over all phases; what the draws of dropout depend on.
    views: int32 [B], number of the augmentation's draw: the epoch's, or one that comes again.
    """

    inputs: Any
    labels: Any
    weights: Any
    examples: Any
    epochs: Any
    views: Any


@dataclasses.dataclass(frozen=True)
class DataLoader:
    """The data as the engine sees it: no files, no formats.

    `train(first, stop, per_call=1, views=…, lookup=None)` gives the training batches of the steps
    first to stop - 1, counted over all phases, stacked: every column begins with [N, B], N being
    `per_call`, or what is left of an epoch or of the steps. `views(examples, epoch)` is the view of
    each example, int32 [n] and a number -> int32 [n]; the epoch's own number if not given. Without
    `lookup` the inputs are images; `lookup(examples, views)`, int32 [n] each, gives what takes
    their place, a tuple of arrays that begin with [n].
    `once(part, which)` gives every example of `train`, `validation` or `test` once, in their order,
    the last batch filled up at weight 0; `which` chooses among these batches by number.
    `name(example, part="train")` says where an example lies, for a message.
    `groups` has the group of each training example, '' for none; examples of one group show one
    thing. It is empty where nothing is known of groups.
    `identity` tells each part's examples and labels from others; empty where nobody asks.
    """

    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    validation_examples: int
    test_examples: int
    train: Callable[..., Iterable[Batch]]
    once: Callable[..., Iterable[Batch]]
    name: Callable[..., str] = lambda example, part="train": str(example)
    groups: Sequence[str] = ()
    identity: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def train_examples(self) -> int:
        return sum(self.class_counts)


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
