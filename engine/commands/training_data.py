"""A run made ready: data listed, network built, pictures looked at, all put together."""

from __future__ import annotations

from typing import Any

from engine.cli import flags, main
from engine.core.dataset import Feed
from engine.core.recipe import Recipe
from engine.frozen import warmup
from engine.frozen.array_store import Room
from engine.loggers.base import Watch
from engine.models.classifier import Classifier
from engine.runs.directory import RunDir
from engine.training import setup
from pipelines.loading import batches, prepare
from pipelines.sources import sources


def ingredients(
    parsed: flags.Parsed,
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
    made = setup.build(recipe, examples.classes, run, watch, devices)
    place = main.place(parsed)
    keeping = place if recipe.cache in ("auto", "pixels") else None
    # The weights of a run that is taken up are still in its checkpoint.
    phases = [] if run.started() else [phase for phase in recipe.phases if phase.epochs][:1]
    with warmup.meanwhile(made, recipe, phases, devices) as compiled:
        examples, pixels = prepare.to_train(
            examples, recipe, run.bad_images, threads, watch.note, keeping
        )
    in_memory = pixels.nbytes if pixels and pixels.in_memory else 0
    feed = batches.make_feed(examples, recipe, threads, pixels, main.device())
    room = Room(place.memory - in_memory, place.folder)
    return made, feed, {"room": room, "early": compiled}
