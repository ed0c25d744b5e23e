"""A run to serve, and the service of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.evaluation.decision_rule import DecisionRule
from tests.engine import saved_run
from tests.engine.commands.serving import CLASSES, served


@pytest.fixture(scope="session")
def made_run(tmp_path_factory) -> Path:
    """A finished run of the backbone tiny with random weights."""
    place = tmp_path_factory.mktemp("served") / "run"
    return saved_run.save(place, DecisionRule(temperature=1.5), CLASSES).path


@pytest.fixture(scope="session")
def service(made_run):
    with served(f"--run_dir={made_run}") as it:
        yield it
        status, out, err = it.end()
        assert (status, out, err) == (0, "", ""), "whatever was sent to it"
