"""A run that several files of tests look at."""

import pytest

from engine.training import loop
from tests.engine.small_runs import Watcher, make_job, small_recipe


@pytest.fixture(scope="session")
def undisturbed(coloured, tmp_path_factory):
    watcher = Watcher()
    place = tmp_path_factory.mktemp("run") / "run"
    made = make_job(small_recipe(coloured), place, watcher)
    return made, watcher, loop.train(made).result
