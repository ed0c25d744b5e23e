"""Runs of these tests draw no plots: each takes longer than an epoch of the network tiny."""

from types import SimpleNamespace

import pytest

from engine.training import checkpoint_writer


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    plots = SimpleNamespace(history=lambda rows, phases: b"a plot")
    monkeypatch.setattr(checkpoint_writer, "plots", plots)
