"""A run made ready: data listed, network built, pictures looked at, all put together."""

from __future__ import annotations

from typing import Any

import _flags
import _setup

from engine import early, runs
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
) -> tuple[Classifier, Feed, dict[str, Any]]:
    """The network, the data, and `room` and `early` of `stages.Job`.

    The pictures are looked at while the first phase's frozen part is compiled.
    The network comes first: weights that can't be had are no reason to decode a million pictures.

    Raises:
      UserError: what the flags name is not there, or can't be used.
    """
    examples = sources.load(recipe.data)
    made = runs.build(recipe, examples.classes, run, watch, devices)
    place = _setup.place(parsed)
    keeping = place if recipe.cache in ("auto", "pixels") else None
    # The weights of a run that is taken up are still in its checkpoint.
    phases = [] if run.started() else [phase for phase in recipe.phases if phase.epochs][:1]
    with early.meanwhile(made, recipe, phases, devices) as compiled:
        examples, pixels = ready.to_train(
            examples, recipe, run.bad_images, threads, watch.note, keeping
        )
    in_memory = pixels.nbytes if pixels and pixels.in_memory else 0
    feed = batches.make_feed(examples, recipe, threads, pixels, _setup.device())
    room = Room(place.memory - in_memory, place.folder)
    return made, feed, {"room": room, "early": compiled}
