"""The trained run as tests of the loop compare with it."""

import pytest


@pytest.fixture(scope="session")
def undisturbed(trained_run):
    """The job, the watcher and the result of a run that nothing disturbed."""
    return trained_run.job, trained_run.watcher, trained_run.result
