"""Decoded images that evaluations in this process share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def pixel_cache(coloured, tmp_path_factory) -> Path:
    """The decoded images of `coloured`: with them an evaluation takes an eighth."""
    from pipelines.loading import prepare
    from pipelines.pixel_cache.store import CacheLocation
    from pipelines.sources import sources
    from tests.engine.small_runs import small_recipe

    folder = tmp_path_factory.mktemp("pixel_cache")
    recipe = small_recipe(coloured)
    prepare.prepare_training_data(
        sources.load(recipe.data), recipe, folder / "bad.csv", 2, print, CacheLocation(folder, 0)
    )
    return folder
