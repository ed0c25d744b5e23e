"""A run made ready: data listed, network built, pictures looked at, all put together."""

from __future__ import annotations

from typing import Any

import _flags
import _setup

from engine import runs
from engine.classifier import Classifier
from engine.rundir import RunDir
from engine.specs import Feed, Recipe
from engine.storage import Room
from engine.watching import Watch
from pipelines import batches, ready, sources


def ingredients(
    parsed: _flags.Parsed,
    recipe: Recipe,
    run: RunDir,
    threads: int,
    watch: Watch,
    devices: Any = None,
) -> tuple[Classifier, Feed, Room]:
    """The network, the data, and where the outputs of its frozen part may be kept.

    The network comes first: weights that can't be had are no reason to decode a million pictures.

    Raises:
      UserError: what the flags name is not there, or can't be used.
    """
    examples = sources.load(recipe.data)
    made = runs.build(recipe, examples.classes, run, watch, devices)
    place = _setup.place(parsed)
    keeping = place if recipe.cache in ("auto", "pixels") else None
    examples, pixels = ready.to_train(
        examples, recipe, run.bad_images, threads, watch.note, keeping
    )
    in_memory = pixels.nbytes if pixels and pixels.in_memory else 0
    feed = batches.make_feed(examples, recipe, threads, pixels, _setup.device())
    return made, feed, Room(place.memory - in_memory, place.folder)
